"""Surfaces over the plane, whose paths can be drawn: a bowl, a ravine, a saddle, two valleys.

The ravine is momentum's textbook case. The paths of the saddle begin near the ridge that leads into
it; its minima, at y = +-sqrt(2), have the value -1. Rosenbrock's bent valley is easy to find and
hard to follow; it and Beale's are sums of squares, whose parts Gauss-Newton and Levenberg-Marquardt
see.

Source:
    rosenbrock  Rosenbrock, "An automatic method for finding the greatest or least value of a
                function", Computer Journal 3 (1960), doi:10.1093/comjnl/3.3.175
    beale       Beale, "On an iterative method for finding a local minimum of a function of more
                than one variable" (1958); More, Garbow and Hillstrom (1981), problem 5
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, Scalar

from fnn.objective import Objective, ValueFunction, penalty
from fnn.problems.minpack import CASES
from fnn.problems.problem import Budget, Measure, Problem, described

SPREAD = 0.05  # standard deviation of the starts


class Surface(NamedTuple):
    """A function of two numbers, and how to look at it.

    Attributes:
        fn: `fn(x) -> scalar` for x of shape (2,).
        start: where paths begin.
        minima: its lowest points, one in a row.
        xlim: the part of the first axis to look at.
        ylim: of the second.
    """

    fn: Callable[[Float[Array, "2"]], Scalar]
    start: tuple[float, float]
    minima: tuple[tuple[float, float], ...]
    xlim: tuple[float, float]
    ylim: tuple[float, float]


_rosenbrock_residual = CASES["rosenbrock"].residual


def _beale_residual(x: Float[Array, "2"], _: int) -> Float[Array, "3"]:
    powers = jnp.stack([x[1], x[1] ** 2, x[1] ** 3])
    return jnp.array([1.5, 2.25, 2.625]) - x[0] * (1 - powers)


def _sum_of_squares(residual: Callable[..., Array]) -> Callable[[Array], Scalar]:
    return lambda x: jnp.sum(residual(x, len(x)) ** 2)


SURFACES: Mapping[str, Surface] = {
    "bowl": Surface(
        lambda x: x[0] ** 2 + 2 * x[1] ** 2, (-1.5, 1.0), ((0.0, 0.0),), (-2, 2), (-1.5, 1.5)
    ),
    "ravine": Surface(
        lambda x: x[0] ** 2 / 2 + 50 * x[1] ** 2, (-1.8, 0.3), ((0.0, 0.0),), (-2, 1), (-0.5, 0.5)
    ),
    "saddle": Surface(
        lambda x: x[0] ** 2 - x[1] ** 2 + x[1] ** 4 / 4,
        (-1.5, 0.0),
        ((0.0, -(2**0.5)), (0.0, 2**0.5)),
        (-2, 2),
        (-2, 2),
    ),
    "rosenbrock": Surface(
        _sum_of_squares(_rosenbrock_residual), (-1.2, 1.0), ((1.0, 1.0),), (-2, 2), (-1, 3)
    ),
    "beale": Surface(
        _sum_of_squares(_beale_residual), (1.0, 1.0), ((3.0, 0.5),), (-0.5, 4), (-1.5, 1.5)
    ),
}
"""The surfaces by their names, for drawing."""


def _surface(
    name: str,
    summary: str,
    source: str,
    target: float,
    residual: Callable[[Array, int], Array] | None = None,
) -> Problem:
    """The problem of finding the lowest point of one of `SURFACES`."""
    surface = SURFACES[name]
    value_fn: ValueFunction = penalty(surface.fn)
    if residual is not None:  # on one example, which it does not look at
        value_fn = 2.0 * Objective(lambda x, _: residual(x, 2)).on(np.zeros(1))

    def init(key: Key[Array, ""]) -> Float[Array, "2"]:
        start = jnp.array(surface.start)
        return start + SPREAD * jax.random.normal(key, (2,), start.dtype)

    def distance(x: Float[Array, "2"], minima: Float[Array, "n 2"]) -> Scalar:
        return jnp.min(jnp.hypot(*(x - minima).T))

    return Problem(
        name=name,
        summary=summary,
        source=source,
        init=init,
        objective=None,
        train=value_fn,
        validation=value_fn,
        test=np.array(surface.minima),
        measure=Measure("distance to a minimum", distance),
        batch_size=None,
        budget=Budget(200, "steps"),
        target=target,
    )


PROBLEMS: Mapping[str, Callable[..., Problem]] = {
    "bowl": described(
        "x^2 + 2 y^2, which every rule descends.",
        _surface, "bowl", "x^2 + 2 y^2", "lectures", 1e-4,
    ),
    "ravine": described(
        "x^2 / 2 + 50 y^2, a hundred times as steep across as along: momentum's textbook case.",
        _surface, "ravine", "x^2 / 2 + 50 y^2", "lectures", 1e-4,
    ),
    "saddle": described(
        "x^2 - y^2 + y^4 / 4, from near the ridge that leads into the saddle.",
        _surface, "saddle", "x^2 - y^2 + y^4 / 4", "lectures", -0.999,
    ),
    "rosenbrock": described(
        "100 (y - x^2)^2 + (1 - x)^2: a bent valley, easy to find and hard to follow.", _surface,
        "rosenbrock", "100 (y - x^2)^2 + (1 - x)^2", "Rosenbrock (1960)", 0.1, _rosenbrock_residual,
    ),
    "beale": described(
        "Beale's function, the sum of (c_i - x (1 - y^i))^2: steep walls around a flat floor.",
        _surface, "beale", "sum of (c_i - x (1 - y^i))^2 for c = 1.5, 2.25, 2.625",
        "Beale (1958)", 1e-3, _beale_residual,
    ),
}  # fmt: skip
"""The problems by their names."""
