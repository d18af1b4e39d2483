"""Partial differential equations, solved by networks of tanh units: no data but the equation.

The value is half the mean square of the equation's residual at points inside, plus that of what the
border asks for at points on it. Points between them validate. The measure is the relative L2 error
against the exact solution at other points.

Source:
    poisson     Müller and Zeinhofer, "Achieving high accuracy with PINNs via energy natural
                gradient descent", ICML (2023), arXiv:2302.13163, section 4.1
    helmholtz   Wang, Teng and Perdikaris, "Understanding and mitigating gradient flow
                pathologies in physics-informed neural networks" (2020), arXiv:2001.04536
    allen-cahn  Raissi, Perdikaris and Karniadakis, "Physics-informed neural networks", Journal of
                Computational Physics 378 (2019), doi:10.1016/j.jcp.2018.10.045; the front of
                Wazwaz, "The tanh-coth method for solitons and kink solutions for nonlinear
                parabolic equations", Applied Mathematics and Computation 188 (2007)
    heat        the equation of Dangel, Müller and Zeinhofer, "Kronecker-factored approximate
                curvature for physics-informed neural networks" (2024), arXiv:2405.15603

Differs: in Helmholtz's equation the shorter waves are twice as long. The Allen-Cahn equation is
less stiff, and begins with a front whose motion is known exactly. The heat equation has five
coordinates of space in place of four, and begins with a mean of sines, whose decay is slow enough
to be seen.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree, Scalar

from fnn.data import Data
from fnn.differential import derivative, laplacian
from fnn.objective import Objective, ValueFunction
from fnn.problems.problem import Budget, Measure, Problem
from fnn.problems.supervised import network

Function = Callable[[Float[Array, " d"]], Array]
Points = Float[np.ndarray, "n d"]


class _Equation(NamedTuple):
    """What a function must satisfy, and the one that does.

    `inside(u, x)` and `border(u, x)` are 0 for the solution; u returns an array with one number.
    """

    inside: Callable[[Function, Float[Array, " d"]], Array]
    border: Callable[[Function, Float[Array, " d"]], Array]
    solution: Callable[..., Array]


def _solved_by_a_network(
    name: str,
    summary: str,
    source: str,
    equation: _Equation,
    *,
    hidden: list[int],
    train: tuple[Points, Points],
    validation: tuple[Points, Points],
    test: Points,
    gradients: float,
    target: float,
) -> Problem:
    """The problem of an equation; points of the parts are those inside and those on the border."""
    model = network([*hidden, 1])

    def on_points(residual: Callable[[Function, Array], Array]) -> Objective:
        return Objective(lambda params, x: residual(partial(model.apply, params), x))

    inside, border = on_points(equation.inside), on_points(equation.border)

    def value_fn(within: Points, along: Points) -> ValueFunction:
        return inside.on(within) + border.on(along)

    def relative_error(params: PyTree, test: Data) -> Scalar:
        outputs = jax.vmap(partial(model.apply, params))(test.inputs)[:, 0]
        return jnp.linalg.norm(outputs - test.targets) / jnp.linalg.norm(test.targets)

    exact = np.asarray(jax.vmap(equation.solution)(test))
    return Problem(
        name=name,
        summary=f"{summary}, {'-'.join(map(str, [test.shape[1], *hidden, 1]))}",
        source=source,
        init=lambda key: model.init(key, test[0]),
        objective=None,
        train=value_fn(*train),
        validation=value_fn(*validation),
        test=Data(test, exact),
        measure=Measure("relative L2 error", relative_error),
        batch_size=None,
        budget=Budget(gradients, "gradients"),
        target=target,
    )


# The equations ------------------------------------------------------------------------------------


def poisson() -> Problem:
    """-Laplace(u) = 2 pi^2 sin(pi x) sin(pi y) on the unit square, u = 0 on its border.

    There are 30 x 30 points inside and 30 on each side; u = sin(pi x) sin(pi y).

    Returns:
        The problem.
    """

    def inside(u: Function, x: Float[Array, "2"]) -> Array:
        return laplacian(u)(x)[0] + 2 * jnp.pi**2 * jnp.prod(jnp.sin(jnp.pi * x))

    equation = _Equation(inside, lambda u, x: u(x), lambda x: jnp.prod(jnp.sin(jnp.pi * x)))
    return _solved_by_a_network(
        "poisson",
        "Poisson's equation on the unit square",
        "Müller and Zeinhofer (2023)",
        equation,
        hidden=[32],
        train=(_grid(np.arange(1, 31) / 31), _sides(np.arange(30) / 29)),
        validation=(_grid(np.arange(1, 30) / 31 + 1 / 62), _sides(np.arange(29) / 29 + 1 / 58)),
        test=_grid(np.linspace(0, 1, 100)),
        gradients=8000,
        target=1e-2,
    )


def helmholtz() -> Problem:
    """Laplace(u) + u = q on a square, u = 0 on its border, whose solution oscillates.

    u = sin(pi x) sin(2 pi y) on [-1, 1]^2, with 20 x 20 points inside and 20 on each side.

    Returns:
        The problem.
    """

    def solution(x: Float[Array, "2"]) -> Array:
        return jnp.sin(jnp.pi * x[0]) * jnp.sin(2 * jnp.pi * x[1])

    def inside(u: Function, x: Float[Array, "2"]) -> Array:
        return laplacian(u)(x)[0] + u(x)[0] - (1 - 5 * jnp.pi**2) * solution(x)

    def points(n: int) -> tuple[Points, Points]:
        return 2 * _grid((np.arange(n) + 0.5) / n) - 1, 2 * _sides(np.arange(n) / (n - 1)) - 1

    return _solved_by_a_network(
        "helmholtz",
        "Helmholtz's equation, waves of one length and of half of it",
        "Wang, Teng and Perdikaris (2020)",
        _Equation(inside, lambda u, x: u(x), solution),
        hidden=[16, 16],
        train=points(20),
        validation=points(19),
        test=2 * _grid(np.linspace(0, 1, 100)) - 1,
        gradients=500,
        target=0.31,
    )


def allen_cahn() -> Problem:
    """u_t = u_xx / 50 + 2 (u - u^3): a front between 0 and 1 that moves without changing its form.

    u = (1 + tanh(k (x - 1/4 + c t))) / 2 with k = sqrt(12.5), c = 3 sqrt(0.02), for t in [0, 1]
    and x in [-1, 1]: 20 x 40 points inside, 40 at the start and 20 at each end.

    Returns:
        The problem.
    """
    steepness, speed = math.sqrt(12.5), 3 * math.sqrt(0.02)

    def solution(x: Float[Array, "2"]) -> Array:
        return (1 + jnp.tanh(steepness * (x[1] - 0.25 + speed * x[0]))) / 2

    def inside(u: Function, x: Float[Array, "2"]) -> Array:
        value = u(x)
        return derivative(u, 0)(x) - laplacian(u, (1,))(x) / 50 - 2 * (value - value**3)

    def points(n: int) -> tuple[Points, Points]:
        t, x = (np.arange(n) + 0.5) / n, (np.arange(2 * n) + 0.5) / n - 1
        start = np.stack([np.zeros(2 * n), x], axis=1)
        ends = np.array([*itertools.product(t, (-1.0, 1.0))])
        return np.array([*itertools.product(t, x)]), np.concatenate([start, ends])

    return _solved_by_a_network(
        "allen-cahn",
        "the Allen-Cahn equation, a front that moves",
        "after Raissi, Perdikaris and Karniadakis (2019)",
        _Equation(inside, lambda u, x: u(x) - solution(x), solution),
        hidden=[20, 20],
        train=points(20),
        validation=points(19),
        test=points(50)[0],
        gradients=500,
        target=2.9e-5,
    )


def heat() -> Problem:
    """u_t = Laplace(u) / 4 in the unit cube of five dimensions, by random points.

    u = exp(-pi^2 t / 4) times the mean of sin(pi x_i), for t in [0, 1]: 600 points inside, 300 at
    the start and on the faces.

    Returns:
        The problem.
    """

    def solution(x: Float[Array, "6"]) -> Array:
        return jnp.exp(-(jnp.pi**2) * x[0] / 4) * jnp.mean(jnp.sin(jnp.pi * x[1:]))

    def inside(u: Function, x: Float[Array, "6"]) -> Array:
        return derivative(u, 0)(x) - laplacian(u, range(1, 6))(x) / 4

    def points(seed: int) -> tuple[Points, Points]:
        rng = np.random.RandomState(seed)
        within, along = rng.uniform(size=(600, 6)), rng.uniform(size=(300, 6))
        along[:150, 0] = 0
        along[np.arange(150, 300), rng.randint(1, 6, 150)] = rng.randint(0, 2, 150)
        return within, along

    return _solved_by_a_network(
        "heat",
        "the heat equation in five dimensions",
        "after Dangel, Müller and Zeinhofer (2024)",
        _Equation(inside, lambda u, x: u(x) - solution(x), solution),
        hidden=[20, 20],
        train=points(0),
        validation=points(1),
        test=points(2)[0],
        gradients=500,
        target=2.7e-3,
    )


def _grid(at: Float[np.ndarray, " n"]) -> Points:
    """The points of a square whose coordinates are among these."""
    return np.array([*itertools.product(at, repeat=2)])


def _sides(at: Float[np.ndarray, " n"]) -> Points:
    """These points of each side of the unit square."""
    zero, one = np.zeros_like(at), np.ones_like(at)
    sides = (at, zero), (at, one), (zero, at), (one, at)
    return np.concatenate([np.stack(side, axis=1) for side in sides])


PROBLEMS: Mapping[str, Callable[..., Problem]] = {
    "poisson": poisson,
    "helmholtz": helmholtz,
    "allen-cahn": allen_cahn,
    "heat": heat,
}
"""The problems by their names."""
