"""The MINPACK suite of nonlinear least squares: residuals, starts and dimensions.

Each residual is a function of the parameters x and of the number m of residuals, in the formulas
and the numbering of the source; `CASES` puts them together with their standard starts. Those in
`PUBLISHED` can be raced.

A race moves each coordinate of the start by 2 % of itself, or of 1 where it is 0, times a Gaussian
number: from farther away some systems end in another minimum. What counts as having arrived is 5 %
above the half sum of squares that MINPACK ends with.

Source: Moré, Garbow and Hillstrom, "Testing unconstrained optimization software", ACM Transactions
on Mathematical Software 7 (1981), doi:10.1145/355934.355936.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, Scalar

from fnn.objective import Objective
from fnn.problems.problem import Budget, Measure, Problem, described

SPREAD = 0.02  # of the starts, as a share of each coordinate


class Case(NamedTuple):
    """A system of residuals.

    Attributes:
        residual: `residual(x, m) -> residuals`, of shape (m,).
        start: the standard start.
        m: how many residuals.
    """

    residual: Callable[[Array, int], Array]
    start: Float[np.ndarray, " n"]
    m: int


def _numbers(text: str) -> Float[np.ndarray, " n"]:
    return np.array(text.split(), float)


def _linear_full_rank(x: Array, m: int) -> Array:
    return jnp.zeros(m).at[: len(x)].set(x) - 2 / m * jnp.sum(x) - 1


def _linear_rank_one(x: Array, m: int) -> Array:
    return jnp.arange(1, m + 1) * jnp.dot(jnp.arange(1, len(x) + 1), x) - 1


def _linear_rank_one_with_zeros(x: Array, m: int) -> Array:
    inner = jnp.arange(1, m - 1) * jnp.dot(jnp.arange(2, len(x)), x[1:-1]) - 1
    return jnp.concatenate([-jnp.ones(1), inner, -jnp.ones(1)])


def _rosenbrock(x: Array, _: int) -> Array:
    return jnp.array([10 * (x[1] - x[0] ** 2), 1 - x[0]])


def _helical_valley(x: Array, _: int) -> Array:
    angle = jnp.arctan(x[1] / x[0]) / (2 * np.pi) + jnp.where(x[0] < 0, 0.5, 0)
    return jnp.array([10 * (x[2] - 10 * angle), 10 * (jnp.hypot(x[0], x[1]) - 1), x[2]])


def _powell_singular(x: Array, _: int) -> Array:
    a, b, c, d = x
    return jnp.array([
        a + 10 * b,
        np.sqrt(5) * (c - d),
        (b - 2 * c) ** 2,
        np.sqrt(10) * (a - d) ** 2,
    ])


def _freudenstein_roth(x: Array, _: int) -> Array:
    a, b = x
    return jnp.array([-13 + a + ((5 - b) * b - 2) * b, -29 + a + ((1 + b) * b - 14) * b])


_BARD = _numbers("0.14 0.18 0.22 0.25 0.29 0.32 0.35 0.39 0.37 0.58 0.73 0.96 1.34 2.10 4.39")


def _bard(x: Array, _: int) -> Array:
    u = np.arange(1.0, 16)
    return jnp.asarray(_BARD) - (x[0] + u / ((16 - u) * x[1] + np.minimum(u, 16 - u) * x[2]))


_KOWALIK = np.array([
    [4, 2, 1, 0.5, 0.25, 0.167, 0.125, 0.1, 0.0833, 0.0714, 0.0625],
    [0.1957, 0.1947, 0.1735, 0.16, 0.0844, 0.0627, 0.0456, 0.0342, 0.0323, 0.0235, 0.0246],
])


def _kowalik_osborne(x: Array, _: int) -> Array:
    u, y = jnp.asarray(_KOWALIK)
    return y - x[0] * u * (u + x[1]) / (u * (u + x[2]) + x[3])


_MEYER = _numbers("""
    34780 28610 23650 19630 16370 13720 11540 9744 8261 7030 6005 5147 4427 3820 3307 2872
""")


def _meyer(x: Array, _: int) -> Array:
    return x[0] * jnp.exp(x[1] / (45 + 5 * np.arange(1, 17) + x[2])) - _MEYER


def _watson(x: Array, _: int) -> Array:
    n = len(x)
    powers = (np.arange(1, 30)[:, None] / 29) ** np.arange(n)
    slopes = powers[:, : n - 1] * np.arange(1, n)
    sums = slopes @ x[1:] - (powers @ x) ** 2 - 1
    return jnp.concatenate([sums, jnp.array([x[0], x[1] - x[0] ** 2 - 1])])


def _box(x: Array, _: int) -> Array:
    i = np.arange(1.0, 11)
    t = i / 10
    return jnp.exp(-t * x[0]) - jnp.exp(-t * x[1]) + jnp.asarray(np.exp(-i) - np.exp(-t)) * x[2]


def _jennrich_sampson(x: Array, _: int) -> Array:
    i = jnp.arange(1.0, 11)
    return 2 + 2 * i - (jnp.exp(i * x[0]) + jnp.exp(i * x[1]))


def _brown_dennis(x: Array, _: int) -> Array:
    t = np.arange(1, 21) / 5
    return (x[0] + t * x[1] - np.exp(t)) ** 2 + (x[2] + np.sin(t) * x[3] - np.cos(t)) ** 2


def _chebyquad(x: Array, m: int) -> Array:
    polynomials = [jnp.ones_like(x), 2 * x - 1]
    for _ in range(m - 1):
        polynomials.append(2 * (2 * x - 1) * polynomials[-1] - polynomials[-2])
    i = np.arange(1, m + 1)
    integrals = np.where(i % 2, 0.0, -1 / np.where(i % 2, 1, i**2 - 1))
    return jnp.mean(jnp.stack(polynomials[1:]), axis=1) - integrals


def _brown_almost_linear(x: Array, _: int) -> Array:
    n = len(x)
    return jnp.append((x + jnp.sum(x) - (n + 1))[:-1], jnp.prod(x) - 1)


_OSBORNE_1 = _numbers("""
    .844 .908 .932 .936 .925 .908 .881 .850 .818 .784 .751 .718 .685 .658 .628 .603 .580 .558
    .538 .522 .506 .490 .478 .467 .457 .448 .438 .431 .424 .420 .414 .411 .406
""")


def _osborne_1(x: Array, _: int) -> Array:
    t = 10.0 * np.arange(33)
    return jnp.asarray(_OSBORNE_1) - (x[0] + x[1] * jnp.exp(-t * x[3]) + x[2] * jnp.exp(-t * x[4]))


_OSBORNE_2 = _numbers("""
    1.366 1.191 1.112 1.013 .991 .885 .831 .847 .786 .725 .746 .679 .608 .655 .616 .606 .602
    .626 .651 .724 .649 .649 .694 .644 .624 .661 .612 .558 .533 .495 .500 .423 .395 .375 .372
    .391 .396 .405 .428 .429 .523 .562 .607 .653 .672 .708 .633 .668 .645 .632 .591 .559 .597
    .625 .739 .710 .729 .720 .636 .581 .428 .292 .162 .098 .054
""")


def _osborne_2(x: Array, _: int) -> Array:
    t = np.arange(65) / 10
    bells = [x[i] * jnp.exp(-((t - x[i + 7]) ** 2) * x[i + 4]) for i in (1, 2, 3)]
    return jnp.asarray(_OSBORNE_2) - (x[0] * jnp.exp(-t * x[4]) + sum(bells))


# Cases --------------------------------------------------------------------------------------------

CASES: Mapping[str, Case] = {
    "linear full rank, 10": Case(_linear_full_rank, np.ones(5), 10),
    "linear full rank, 50": Case(_linear_full_rank, np.ones(5), 50),
    "linear rank one, 10": Case(_linear_rank_one, np.ones(5), 10),
    "linear rank one, 50": Case(_linear_rank_one, np.ones(5), 50),
    "linear with zeros, 10": Case(_linear_rank_one_with_zeros, np.ones(5), 10),
    "linear with zeros, 50": Case(_linear_rank_one_with_zeros, np.ones(5), 50),
    "rosenbrock": Case(_rosenbrock, np.array([-1.2, 1]), 2),
    "helical valley": Case(_helical_valley, np.array([-1.0, 0, 0]), 3),
    "powell singular": Case(_powell_singular, np.array([3.0, -1, 0, 1]), 4),
    "freudenstein-roth": Case(_freudenstein_roth, np.array([0.5, -2]), 2),
    "bard": Case(_bard, np.ones(3), 15),
    "kowalik-osborne": Case(_kowalik_osborne, np.array([0.25, 0.39, 0.415, 0.39]), 11),
    "meyer": Case(_meyer, np.array([0.02, 4000, 250]), 16),
    "watson, 6": Case(_watson, np.zeros(6), 31),
    "watson, 9": Case(_watson, np.zeros(9), 31),
    "watson, 12": Case(_watson, np.zeros(12), 31),
    "box": Case(_box, np.array([0.0, 10, 20]), 10),
    "jennrich-sampson": Case(_jennrich_sampson, np.array([0.3, 0.4]), 10),
    "brown-dennis": Case(_brown_dennis, np.array([25.0, 5, -5, -1]), 20),
    "chebyquad, 1": Case(_chebyquad, np.ones(1) / 2, 8),
    "chebyquad, 8": Case(_chebyquad, np.arange(1, 9) / 9, 8),
    "chebyquad, 9": Case(_chebyquad, np.arange(1, 10) / 10, 9),
    "chebyquad, 10": Case(_chebyquad, np.arange(1, 11) / 11, 10),
    "brown almost linear, 10": Case(_brown_almost_linear, np.ones(10) / 2, 10),
    "brown almost linear, 30": Case(_brown_almost_linear, np.ones(30) / 2, 30),
    "brown almost linear, 40": Case(_brown_almost_linear, np.ones(40) / 2, 40),
    "osborne 1": Case(_osborne_1, np.array([0.5, 1.5, -1, 0.01, 0.02]), 33),
    "osborne 2": Case(_osborne_2, _numbers("1.3 .65 .65 .7 .6 3 5 7 2 4.5 5.5"), 65),
}
"""The suite, named and numbered as MINPACK's driver does."""

PUBLISHED: Mapping[str, float] = {
    "bard": 9.0635960e-2,
    "brown-dennis": 2.9295429e2,
    "kowalik-osborne": 1.7535838e-2,
    "meyer": 9.3779451,
    "osborne 1": 7.3924926e-3,
    "osborne 2": 2.0034404e-1,
    "watson, 6": 4.7829594e-2,
}
"""The norms of the residuals that MINPACK's own LMDER1 ends with, of those that can be raced."""


def least_squares(case: str) -> Problem:
    """Half the sum of squares of one system of `PUBLISHED`, from near its standard start."""
    (residual, start, m), norm = CASES[case], PUBLISHED[case]
    value_fn = Objective(lambda x, _: residual(x, m)).on(np.zeros(1))  # one example, not looked at

    def init(key: Key[Array, ""]) -> Float[Array, " n"]:
        at = jnp.array(start)
        scale = jnp.where(at == 0, 1, at)
        return at + SPREAD * scale * jax.random.normal(key, at.shape, at.dtype)

    def share(x: Float[Array, " n"], published: Scalar) -> Scalar:
        return jnp.linalg.norm(residual(x, m)) / published

    return Problem(
        name=_name(case),
        summary=f"{m} residuals of {len(start)} parameters of the MINPACK suite",
        source="Moré, Garbow and Hillstrom (1981)",
        init=init,
        objective=None,
        train=value_fn,
        validation=value_fn,
        test=np.array(norm),
        measure=Measure("norm / MINPACK's", share),
        batch_size=None,
        budget=Budget(500, "steps"),
        target=1.05 * norm**2 / 2,
    )


def _name(case: str) -> str:
    return f"minpack-{case.split(',')[0].replace(' ', '-')}"


PROBLEMS: Mapping[str, Callable[..., Problem]] = {
    _name(case): described(f"{case} of the MINPACK suite of least squares.", least_squares, case)
    for case in PUBLISHED
}
"""The problems by their names."""
