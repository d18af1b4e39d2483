"""DeepOBS's first test problem: a noisy quadratic of 100 dimensions, ten of them steep."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from fnn.objective import Objective
from fnn.problems.problem import Budget, Measure, Problem

DIMENSION, EXAMPLES = 100, 1000


def quadratic() -> Problem:
    """The mean over points x of (theta - x)^T Q (theta - x) / 2, from theta = 1.

    Q has 90 eigenvalues in (0, 1) and 10 in (30, 60), turned by a rotation drawn from Haar's
    measure; the points are Gaussian. The objective is half the sum of squares of the residual
    A (theta - x), A^T A = Q, which Gauss-Newton sees. All starts are the same: seeds differ in the
    order of the points.

    Returns:
        The problem.

    Source:
        Schneider, Balles and Hennig, "DeepOBS: a deep learning optimizer benchmark suite", ICLR
        (2019), openreview.net/forum?id=rJg6ssC5Y7, problem quadratic_deep, whose training and test
        points these are.

    Differs:
        Points of one more seed validate. The target is as far above the loss of the best theta for
        the training points as DeepOBS's convergence performance is on the test points.

    Example:
        >>> quadratic().train.shape
        (1000, 100)
    """
    root = quadratic_root()
    objective = Objective(lambda theta, x: root @ (theta - x))

    def start(key: Key[Array, ""]) -> Float[Array, " dimension"]:
        del key
        return jnp.ones(DIMENSION)

    return Problem(
        name="deepobs-quadratic",
        summary="a noisy quadratic of 100 dimensions, ten of them steep",
        source="Schneider, Balles and Hennig (2019)",
        init=start,
        objective=objective,
        train=quadratic_points(42),
        validation=quadratic_points(44),
        test=quadratic_points(43),
        measure=Measure("loss", lambda theta, points: objective.on(points)(theta)),
        batch_size=128,
        budget=Budget(100 * EXAMPLES, "examples"),
        target=86.27,
    )


def quadratic_root() -> Float[np.ndarray, "dimension dimension"]:
    """A with A^T A = Q, the Hessian.

    Returns:
        The matrix, always the same.

    Example:
        >>> root = quadratic_root()
        >>> np.linalg.eigvalsh(root.T @ root)[[0, 89, 90, 99]].round(2).tolist()
        [0.01, 0.99, 30.76, 53.13]
    """
    rng = np.random.RandomState(42)
    eigenvalues = np.concatenate([rng.uniform(0, 1, 90), rng.uniform(30, 60, 10)])
    return np.sqrt(eigenvalues)[:, None] * _rotation(rng)


def _rotation(rng: np.random.RandomState) -> Float[np.ndarray, "dimension dimension"]:
    """The subgroup algorithm of Diaconis and Shahshahani (1987): one reflection per dimension."""
    angle = 2 * np.pi * rng.uniform()
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    for n in range(3, DIMENSION + 1):
        direction = rng.normal(size=n)
        normal = np.eye(n)[0] - direction / np.linalg.norm(direction)
        normal /= np.linalg.norm(normal)
        larger = np.eye(n)
        larger[1:, 1:] = rotation
        rotation = larger - 2 * np.outer(normal, normal @ larger)
    return -rotation


def quadratic_points(seed: int) -> Float[np.ndarray, "examples dimension"]:
    """Gaussian points of standard deviation 0.6.

    Args:
        seed: 42 for those that train, 43 for those that test.

    Returns:
        1000 points, the same for the same seed.

    Example:
        >>> float(quadratic_points(42).std().round(2))
        0.6
    """
    points = np.random.RandomState(seed).normal(0.0, 0.6, (EXAMPLES, DIMENSION))
    return points.astype(np.float32).astype(np.float64)
