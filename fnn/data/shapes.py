"""Drawn scenes: shapes on noise, with everything that is known about each of them."""

from numbers import Integral
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int32

NAMES = "background", "disk", "square", "triangle"


class Shapes(NamedTuple):
    """Images of shapes, and what is in them; where an image has fewer shapes, the rest is empty.

    Attributes:
        inputs: gray images, noise around 0 and shapes between 0.5 and 1 above it.
        masks: the pixels of each shape.
        boxes: of each shape its first row and column and the ends after its last ones, in pixels;
            zeros where there is none.
        classes: 1 a disk, 2 a square, 3 a triangle that points up, 0 where there is none.
    """

    inputs: Float[np.ndarray, "n size size 1"]
    masks: Bool[np.ndarray, "n most size size"]
    boxes: Int32[np.ndarray, "n most 4"]
    classes: Int32[np.ndarray, "n most"]

    @property
    def labels(self) -> Int32[np.ndarray, "n size size"]:
        """The class of every pixel, 0 for the background."""
        return np.einsum("nkrc,nk->nrc", self.masks.astype(np.int32), self.classes)

    def cells(self, count: int) -> tuple[Int32[np.ndarray, "n most"], Int32[np.ndarray, "n cells"]]:
        """What a grid of count * count cells holds, which are counted row by row.

        Where a cell is at most a quarter of the image wide, no two shapes share one.

        Args:
            count: cells along rows and along columns, > 0.

        Returns:
            The cell in which the middle of each shape's box lies (0 where there is no shape), and
            the class of the shape in each cell, 0 for none.

        Raises:
            ValueError: if there is no cell.

        Example:
            >>> scenes = shapes(1, seed=3)
            >>> places, classes = scenes.cells(6)
            >>> bool((classes[0, places[0]] == scenes.classes[0]).all())
            True
        """
        if count < 1:
            raise ValueError(f"Shapes.cells: expected a cell or more, got {count}; try 6")
        middles = (self.boxes[..., :2] + self.boxes[..., 2:]) / 2
        places = (middles * count / self.inputs.shape[1]).astype(np.int32)
        places = places @ np.array([count, 1], np.int32)
        held = np.zeros((len(places), count**2), np.int32)
        np.maximum.at(held, (np.arange(len(places))[:, None], places), self.classes)
        return places, held


def shapes(
    n: int = 1000, *, size: int = 24, most: int = 3, noise: float = 0.1, seed: int = 0
) -> Shapes:
    """Disks, squares and triangles, at random places that do not overlap.

    Each image has from 1 to `most` shapes, of half widths from an eighth to a fifth of the image,
    whose boxes keep a pixel between them. (Fewer, where a shape has found no room in 50 draws.)
    Two middles are more than a quarter of the image apart, along rows or along columns.

    Args:
        n: how many images, > 0.
        size: rows and columns of an image, at least 16.
        most: the largest number of shapes in an image, from 1 to 6.
        noise: standard deviation of the Gaussian noise on the pixels; >= 0.
        seed: the same seed gives the same images.

    Returns:
        The images, with masks, boxes and classes.

    Raises:
        ValueError: if a number is outside of its range.

    Example:
        >>> scenes = shapes(10)
        >>> scenes.inputs.shape, scenes.boxes.shape, scenes.labels.shape
        ((10, 24, 24, 1), (10, 3, 4), (10, 24, 24))
    """
    for name, number, least, largest in (
        ("n", n, 1, np.inf),
        ("size", size, 16, np.inf),
        ("most", most, 1, 6),
        ("noise", noise, 0, np.inf),
    ):
        is_whole = name == "noise" or isinstance(number, Integral)
        if not is_whole or not least <= number <= largest or number == np.inf:
            expected = f"{least} or more" if largest == np.inf else f"from {least} to {largest}"
            expected += "" if is_whole else ", a whole number"
            raise ValueError(
                f"shapes: expected {name} {expected}, got {number}; try {name}={least}"
            )
    generator = np.random.default_rng(seed)
    masks = np.zeros((n, most, size, size), bool)
    classes = np.zeros((n, most), np.int32)
    for image in range(n):
        for i, place in enumerate(_places(generator, size, int(generator.integers(1, most + 1)))):
            classes[image, i] = generator.integers(1, len(NAMES))
            masks[image, i] = _drawn(classes[image, i], *place, size)
    gray = generator.uniform(0.5, 1, (n, most, 1, 1))
    inputs = np.sum(gray * masks, axis=1) + noise * generator.standard_normal((n, size, size))
    return Shapes(inputs[..., None], masks, _boxes(masks), classes)


def _places(
    generator: np.random.Generator, size: int, count: int
) -> list[tuple[float, float, float]]:
    """Middles (row, column) and half widths of so many shapes, or fewer where there is no room."""
    placed: list[tuple[float, float, float]] = []
    for _ in range(50 * count):
        half = generator.uniform(size / 8, size / 5)
        row, column = generator.uniform(half, size - 1 - half, 2)
        free = (max(abs(row - r), abs(column - c)) > half + h + 1 for r, c, h in placed)
        if all(free):
            placed.append((row, column, half))
        if len(placed) == count:
            break
    return placed


def _drawn(kind: int, row: float, column: float, half: float, size: int) -> np.ndarray:
    """The pixels of a shape."""
    down, right = np.arange(size)[:, None] - row, abs(np.arange(size) - column)
    inside = (abs(down) <= half) & (right <= half)
    if NAMES[kind] == "disk":
        return down**2 + right**2 <= half**2
    return inside if NAMES[kind] == "square" else inside & (right <= (down + half) / 2)


def _boxes(masks: np.ndarray) -> np.ndarray:
    """The smallest boxes around masks: first row and column, and the ends after the last."""
    ends = []
    for axis in (-1, -2):
        seen = np.any(masks, axis)
        first, last = seen.argmax(-1), seen.shape[-1] - seen[..., ::-1].argmax(-1)
        ends.append((first, np.where(seen.any(-1), last, 0)))
    (top, bottom), (left, right) = ends
    return np.stack([top, left, bottom, right], -1).astype(np.int32)
