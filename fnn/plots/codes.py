"""Examples where an encoder puts them: points of the plane, written as their classes."""

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes

from fnn.plots.style import style


def codes(axes: Axes, points: Float[np.ndarray, "n 2"], classes: Int[np.ndarray, " n"]) -> Axes:
    """Points of the plane, each written as the number of its class, in the color of that class.

    Args:
        axes: where to draw; its ticks go, for the axes of a code have no meaning of their own.
        points: what an encoder made of examples, or their first two principal components.
        classes: the class of each.

    Returns:
        The axes.

    Raises:
        ValueError: if there are not two numbers for each class given.

    Example:
        >>> from matplotlib.figure import Figure
        >>> axes = codes(Figure().subplots(), np.zeros((3, 2)), np.array([4, 4, 7]))
        >>> [collection.get_label() for collection in axes.collections]
        ['4', '7']
    """
    points, classes = np.asarray(points), np.asarray(classes)
    if points.shape != (len(classes), 2):
        raise ValueError(
            f"codes: expected points of shape ({len(classes)}, 2), two numbers for each class, got "
            f"{points.shape}; try points[:, :2]"
        )
    for number in np.unique(classes):
        x, y = points[classes == number].T
        color, marker = style(int(number)).color, f"${number}$"
        axes.scatter(x, y, s=28, color=color, marker=marker, linewidths=0.2, label=str(number))
    axes.set(xticks=[], yticks=[])
    return axes
