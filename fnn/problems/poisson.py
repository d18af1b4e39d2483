"""A partial differential equation, solved by a network: Poisson's on the unit square."""

import itertools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree, Scalar

from fnn import differential
from fnn.data import Data
from fnn.objective import Objective, ValueFunction
from fnn.problems.problem import Budget, Measure, Problem
from fnn.problems.supervised import network


def poisson() -> Problem:
    """-Laplace(u) = 2 pi^2 sin(pi x) sin(pi y), u = 0 on the border, by a 2-32-1 network.

    The value is half the mean square of the equation's residual at 30 x 30 points, plus that of u
    at 30 points on each side. Points between them validate. The measure is the relative L2 error
    against u = sin(pi x) sin(pi y) on a finer grid.

    Returns:
        The problem, a sum of two blocks.

    Source:
        Müller and Zeinhofer, "Achieving high accuracy with PINNs via energy natural gradient
        descent", ICML (2023), arXiv:2302.13163, section 4.1.

    Example:
        >>> len(poisson().train.terms)
        2
    """
    model = network([32, 1])

    def interior(params: PyTree, x: Float[Array, "2"]) -> Scalar:
        laplace = differential.laplacian(model.apply)(params, x)[0]
        return laplace + 2 * jnp.pi**2 * jnp.prod(jnp.sin(jnp.pi * x))

    equation, border = Objective(interior), Objective(model.apply)

    def value_fn(inside: Float[np.ndarray, " n"], along: Float[np.ndarray, " m"]) -> ValueFunction:
        return equation.on(_grid(inside)) + border.on(_border(along))

    def relative_error(params: PyTree, test: Data) -> Scalar:
        outputs = border.outputs(params, test.inputs)[:, 0]
        return jnp.linalg.norm(outputs - test.targets) / jnp.linalg.norm(test.targets)

    points = _grid(np.linspace(0, 1, 100))
    return Problem(
        name="poisson",
        summary="Poisson's equation on the unit square, 2-32-1",
        source="Müller and Zeinhofer (2023)",
        init=lambda key: model.init(key, points[0]),
        objective=None,
        train=value_fn(np.arange(1, 31) / 31, np.arange(30) / 29),
        validation=value_fn(np.arange(1, 30) / 31 + 1 / 62, np.arange(29) / 29 + 1 / 58),
        test=Data(points, np.prod(np.sin(np.pi * points), axis=1)),
        measure=Measure("relative L2 error", relative_error),
        batch_size=None,
        budget=Budget(8000, "gradients"),
        target=1e-2,
    )


def _grid(at: Float[np.ndarray, " n"]) -> Float[np.ndarray, "points 2"]:
    return np.array([*itertools.product(at, repeat=2)])


def _border(at: Float[np.ndarray, " n"]) -> Float[np.ndarray, "points 2"]:
    zero, one = np.zeros_like(at), np.ones_like(at)
    sides = (at, zero), (at, one), (zero, at), (one, at)
    return np.concatenate([np.stack(side, axis=1) for side in sides])
