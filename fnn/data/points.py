"""Points of the plane with a class or a height: patterns on which small networks are watched."""

from collections.abc import Callable
from numbers import Integral

import numpy as np

from fnn.data.sets import Data


def spirals(n: int = 1000, *, turns: float = 1.5, noise: float = 0.1, seed: int = 0) -> Data:
    """Two spiral arms around the origin, one for each class; each is the other, turned by half.

    An arm leaves a radius of 0.1 and comes to 1 after `turns` turns, at an even pace along its
    length but for the noise.

    Args:
        n: how many examples, half of them in each class; > 0.
        turns: how often an arm goes around; > 0.
        noise: standard deviation of the Gaussian noise on the points, in units of the distance
            between neighboring arms, 0.45 / turns; >= 0.
        seed: the same seed gives the same points.

    Returns:
        inputs (n, 2); targets (n,).

    Raises:
        ValueError: if a number is outside of its range.

    Source:
        Lang and Witbrock, "Learning to tell two spirals apart", Proceedings of the 1988
        Connectionist Models Summer School (1988), with three turns and without noise.

    Example:
        >>> inputs, targets = spirals(100, noise=0.0)
        >>> inputs.shape, int(targets.sum()), float(np.linalg.norm(inputs, axis=1).max().round(3))
        ((100, 2), 50, 1.0)
    """
    _require("spirals", n=n, noise=noise)
    if not 0 < turns < np.inf:
        raise ValueError(f"spirals: expected turns above 0, a finite number, got {turns}; try 1.5")
    targets = np.arange(n) % 2
    # The area swept grows with the square of the radius, and the length of an arm nearly so.
    share = (np.arange(n) // 2 / max(1, (n - 1) // 2)) ** 0.5
    angle = 2 * np.pi * turns * share + np.pi * targets
    arms = (0.1 + 0.9 * share)[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1)
    return _noisy(arms, targets, noise * 0.45 / turns, seed)


def xor(n: int = 1000, *, noise: float = 0.1, seed: int = 0) -> Data:
    """Points of the square [-1, 1]^2, of class 1 where the signs of their coordinates differ.

    Args:
        n: how many examples; > 0.
        noise: standard deviation of the Gaussian noise that moves a point after it has its class;
            >= 0.
        seed: the same seed gives the same points.

    Returns:
        inputs (n, 2); targets (n,).

    Example:
        >>> inputs, targets = xor(4, noise=0.0)
        >>> bool(((inputs[:, 0] * inputs[:, 1] < 0) == targets).all())
        True
    """
    _require("xor", n=n, noise=noise)
    points = np.random.default_rng(seed).uniform(-1, 1, (n, 2))
    return _noisy(points, np.prod(points, -1) < 0, noise, seed + 1)


def clusters(n: int = 1000, *, noise: float = 0.3, seed: int = 0) -> Data:
    """Two round clusters, around (-1, -1) (class 0) and (1, 1) (class 1).

    Args:
        n: how many examples, half of them in each class; > 0.
        noise: standard deviation of a cluster along each axis; >= 0.
        seed: the same seed gives the same points.

    Returns:
        inputs (n, 2); targets (n,).

    Example:
        >>> clusters(4, noise=0.0).inputs.tolist()
        [[-1.0, -1.0], [1.0, 1.0], [-1.0, -1.0], [1.0, 1.0]]
    """
    _require("clusters", n=n, noise=noise)
    targets = np.arange(n) % 2
    middles = np.repeat(2.0 * targets[:, None] - 1, 2, -1)
    return _noisy(middles, targets, noise, seed)


def sine(n: int = 1000, *, noise: float = 0.1, seed: int = 0) -> Data:
    """Heights sin(pi x), whatever y, over the square [-1, 1]^2.

    Args:
        n: how many examples; > 0.
        noise: standard deviation of the Gaussian noise on the heights; >= 0.
        seed: the same seed gives the same points.

    Returns:
        inputs (n, 2); targets (n,), numbers.

    Example:
        >>> inputs, targets = sine(4, noise=0.0)
        >>> bool(np.allclose(targets, np.sin(np.pi * inputs[:, 0])))
        True
    """
    _require("sine", n=n, noise=noise)
    return _heights(lambda points: np.sin(np.pi * points[:, 0]), n, noise, seed)


def plane(n: int = 1000, *, noise: float = 0.1, seed: int = 0) -> Data:
    """Heights (x + y) / 2 over the square [-1, 1]^2: what a linear model fits exactly.

    Args:
        n: how many examples; > 0.
        noise: standard deviation of the Gaussian noise on the heights; >= 0.
        seed: the same seed gives the same points.

    Returns:
        inputs (n, 2); targets (n,), numbers.

    Example:
        >>> inputs, targets = plane(4, noise=0.0)
        >>> bool(np.allclose(targets, inputs.mean(1)))
        True
    """
    _require("plane", n=n, noise=noise)
    return _heights(lambda points: points.mean(-1), n, noise, seed)


def _require(name: str, n: int, noise: float) -> None:
    """Refuses a number of examples or a noise that cannot be."""
    if not isinstance(n, Integral) or n < 1:
        raise ValueError(f"{name}: expected n to be a whole number, 1 or more, got {n}; try n=1000")
    if not 0 <= noise < np.inf:
        raise ValueError(f"{name}: expected noise to be 0 or more, got {noise}; try noise=0.1")


def _noisy(points: np.ndarray, targets: np.ndarray, noise: float, seed: int) -> Data:
    """Points of classes, moved by Gaussian noise."""
    moves = np.random.default_rng(seed).standard_normal(points.shape)
    return Data(points + noise * moves, targets.astype(np.int32))


def _heights(surface: Callable[[np.ndarray], np.ndarray], n: int, noise: float, seed: int) -> Data:
    """Points of the square and the heights of a surface there, with Gaussian noise."""
    generator = np.random.default_rng(seed)
    points = generator.uniform(-1, 1, (n, 2))
    return Data(points, surface(points) + noise * generator.standard_normal(n))
