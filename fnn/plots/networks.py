"""What networks do: regions, fits, features, mistakes, the loss around them and its curvature."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree, Scalar
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, ListedColormap, to_rgb
from matplotlib.patches import Rectangle

from fnn.plots.curves import stroke
from fnn.plots.landscape import contours
from fnn.plots.style import COLORS, style

SIGNED = LinearSegmentedColormap.from_list("signed", [COLORS[0], "white", COLORS[1]])
"""Negative is blue, positive is vermilion, 0 is white."""

COUNTS = LinearSegmentedColormap.from_list("counts", ["white", COLORS[0]])
"""No count is white."""

PIXELS = 300
"""A classifier is asked at so many places along each axis, two dots of a screen apart."""

STEPS = 201
"""A slice is read at so many steps; the number is odd, so that the point itself is one of them."""

UNITS = "#7A7A7A"
"""Hidden units are gray: they explain the fit and must not be taken for it."""


def decision_regions(
    axes: Axes,
    outputs: Callable[[Array], Array],
    xlim: tuple[float, float],
    ylim: tuple[float, float],
    *,
    data: tuple[Any, Any] | None = None,
) -> Axes:
    """Which class a classifier of points in the plane answers where.

    Args:
        axes: where to draw.
        outputs: `outputs(x)` of one point of shape (2,), a function that JAX can map: K logits, of
            which the largest counts, or one number, class 1 above 0.
        xlim: where the first axis begins and ends.
        ylim: where the second axis begins and ends.
        data: points (n, 2) and classes to mark, each class by its color and marker.

    Returns:
        The axes.

    Example:
        >>> from matplotlib.figure import Figure
        >>> axes = decision_regions(Figure().subplots(), lambda x: x[0] - x[1], (0, 1), (0, 1))
        >>> axes.images[0].get_array().shape
        (300, 300)
    """
    x, y = (np.linspace(*limits, PIXELS) for limits in (xlim, ylim))
    points = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    scores = np.asarray(jax.jit(jax.vmap(outputs))(jnp.asarray(points))).reshape(len(points), -1)
    if scores.shape[1] == 1:
        scores = np.concatenate([0 * scores, scores], axis=1)
    answers = scores.argmax(axis=1).reshape(PIXELS, PIXELS)
    count = scores.shape[1]
    shades = ListedColormap([_pale(style(i).color) for i in range(count)])
    axes.imshow(
        answers, shades, origin="lower", extent=(*xlim, *ylim), aspect="auto",
        vmin=-0.5, vmax=count - 0.5, interpolation="nearest",
    )  # fmt: skip
    for i in range(count):
        lead = (scores[:, i] - np.delete(scores, i, axis=1).max(axis=1)).reshape(PIXELS, PIXELS)
        if lead.min() < 0 < lead.max():
            axes.contour(x, y, lead, [0.0], colors="#555555", linewidths=0.8)
    if data is not None:
        inputs, targets = map(np.asarray, data)
        for i, label in enumerate(np.unique(targets)):
            color, _, marker = style(i)
            own = inputs[targets == label]
            axes.plot(
                *own.T, marker, color=color, markersize=4, markeredgecolor="white",
                markeredgewidth=0.4, label=f"class {label}",
            )  # fmt: skip
    axes.set(xlim=xlim, ylim=ylim)
    return _bare(axes)


def function_fit(
    axes: Axes,
    x: Float[np.ndarray, " n"],
    targets: Float[np.ndarray, " n"],
    outputs: Float[np.ndarray, " n"],
    hidden: Float[np.ndarray, "n units"] | None = None,
) -> Axes:
    """A fit of a function of one variable: targets as dots, outputs as a line, hidden units dashed.

    Args:
        axes: where to draw.
        x: the places where the function was given.
        targets: its values there.
        outputs: the network's values there.
        hidden: what each of its hidden units answers, drawn on a scale of their own at the right.

    Returns:
        The axes.

    Example:
        >>> from matplotlib.figure import Figure
        >>> x = np.linspace(-1, 1, 50)
        >>> axes = function_fit(Figure().subplots(), x, x**2, x**2, np.tanh(np.stack([x, -x], 1)))
        >>> [line.get_label() for line in axes.lines]
        ['targets', 'outputs', 'hidden units']
    """
    order = np.argsort(x)
    axes.plot(x, targets, "o", color=COLORS[0], markersize=3.5, label="targets", zorder=3)
    axes.plot(x[order], outputs[order], color=COLORS[1], linewidth=1.6, label="outputs", zorder=4)
    if hidden is not None:
        side = axes.twinx()
        units = {"color": UNITS, "linewidth": 1, "dashes": (4, 2)}
        side.plot(x[order], hidden[order], zorder=1, **units)
        axes.plot([], [], label="hidden units", **units)
        if np.max(np.abs(hidden)) <= 1:  # units such as tanh have one scale for all fits
            side.set_ylim(-1.15, 1.15)
        side.spines[["top", "left", "bottom"]].set_visible(False)
        side.spines["right"].set_color(UNITS)
        side.tick_params(axis="y", colors=UNITS, labelsize="small")
        axes.set_zorder(side.get_zorder() + 1)
        axes.patch.set_visible(False)
        axes.spines["top"].set_visible(False)
        return axes
    return _bare(axes)


def along(
    value_fn: Callable[[PyTree], Scalar], params: PyTree, *directions: PyTree
) -> Callable[[Array], Scalar]:
    """A function of the parameters on a line or a plane through a point.

    Args:
        value_fn: the function.
        params: the point.
        *directions: trees like the parameters, such as a gradient, an eigenvector of the curvature,
            or the way to another point.

    Returns:
        A function of an array of as many numbers, 0 being the point.

    Example:
        >>> surface = along(lambda p: p @ p, jnp.zeros(2), jnp.array([1.0, 0.0]))
        >>> float(surface(jnp.array([3.0])))
        9.0
    """

    def surface(coefficients: Array) -> Scalar:
        def move(p: Array, *parts: Array) -> Array:
            return p + sum(c * part for c, part in zip(coefficients, parts, strict=True))

        return value_fn(jax.tree.map(move, params, *directions))

    return surface


def loss_slice(
    axes: Axes,
    value_fn: Callable[[PyTree], Scalar],
    params: PyTree,
    directions: Mapping[str, PyTree],
    reach: float = 1.0,
) -> Axes:
    """A loss along lines through a point, which is marked.

    Args:
        axes: where to draw.
        value_fn: the loss, a function that JAX can map.
        params: the point.
        directions: a tree like the parameters for each label.
        reach: how many times each direction is gone, both ways.

    Returns:
        The axes.

    Example:
        >>> from matplotlib.figure import Figure
        >>> ways = {"diagonal": jnp.ones(2)}
        >>> axes = loss_slice(Figure().subplots(), lambda p: p @ p, jnp.zeros(2), ways)
        >>> float(axes.lines[0].get_ydata()[0])
        2.0
    """
    steps = np.linspace(-reach, reach, STEPS)
    for i, (label, direction) in enumerate(directions.items()):
        surface = jax.jit(jax.vmap(along(value_fn, params, direction)))
        values = np.asarray(surface(jnp.asarray(steps[:, None])))
        axes.plot(steps, values, label=label, **stroke(style(i)))
    axes.plot([0], [value_fn(params)], "o", color="black", markersize=5, zorder=3)
    axes.set(xlabel="along the direction", ylabel="loss")
    return _bare(axes)


def loss_surface(
    axes: Axes,
    value_fn: Callable[[PyTree], Scalar],
    params: PyTree,
    directions: tuple[PyTree, PyTree],
    reach: float = 1.0,
) -> Axes:
    """A loss on a plane through a point, which is marked, as `contours` draws it.

    Args:
        axes: where to draw.
        value_fn: the loss, a function that JAX can map.
        params: the point.
        directions: two trees like the parameters, which span the plane.
        reach: how many times each direction is gone, both ways.

    Returns:
        The axes.

    Example:
        >>> from matplotlib.figure import Figure
        >>> ways = jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])
        >>> axes = loss_surface(Figure().subplots(), lambda p: p @ p, jnp.zeros(2), ways)
        >>> axes.get_xlabel()
        'along the first direction'
    """
    limits = (-reach, reach)
    contours(axes, along(value_fn, params, *directions), limits, limits)
    axes.plot([0], [0], "o", color="black", markersize=5)
    axes.set(xlabel="along the first direction", ylabel="along the second")
    return axes


def features(
    axes: Axes,
    rows: Float[np.ndarray, "n pixels"],
    shape: tuple[int, int],
    *,
    columns: int | None = None,
) -> Axes:
    """Rows of numbers as small images, side by side: weights, components, differences.

    Args:
        axes: where to draw; the frame goes.
        rows: one image in each; of a dense layer, `params["weight"].T`.
        shape: rows and columns of an image.
        columns: images side by side; by default about as many as above each other.

    Returns:
        The axes. White is 0, and each image has its own scale: only shapes are compared.

    Example:
        >>> from matplotlib.figure import Figure
        >>> features(Figure().subplots(), np.ones((3, 4)), (2, 2)).images[0].get_array().shape
        (5, 5)
    """
    rows = np.asarray(rows, dtype=float)
    columns = int(np.ceil(np.sqrt(len(rows)))) if columns is None else columns
    height, width = shape
    lines = -(-len(rows) // columns)
    sheet = np.full((lines * (height + 1) - 1, columns * (width + 1) - 1), np.nan)
    for i, row in enumerate(rows):
        top, left = i // columns * (height + 1), i % columns * (width + 1)
        largest = np.max(np.abs(row)) or 1.0
        sheet[top : top + height, left : left + width] = row.reshape(shape) / largest
    axes.imshow(np.ma.masked_invalid(sheet), SIGNED, vmin=-1, vmax=1, interpolation="nearest")
    for i in range(len(rows)):
        corner = i % columns * (width + 1) - 0.5, i // columns * (height + 1) - 0.5
        axes.add_patch(_frame(corner, width, height))
    axes.set(xlim=(-0.8, sheet.shape[1] - 0.2), ylim=(sheet.shape[0] - 0.2, -0.8))
    axes.axis("off")
    return axes


def confusion(axes: Axes, answers: Int[np.ndarray, " n"], targets: Int[np.ndarray, " n"]) -> Axes:
    """How often each class was taken for which: a row for each class, a column for each answer.

    Args:
        axes: where to draw.
        answers: the classes that a classifier gave.
        targets: the true ones.

    Returns:
        The axes; shades are shares of the row.

    Example:
        >>> from matplotlib.figure import Figure
        >>> axes = confusion(Figure().subplots(), np.array([0, 1, 1]), np.array([0, 0, 1]))
        >>> [text.get_text() for text in axes.texts]
        ['1', '1', '1']
    """
    answers, targets = np.asarray(answers), np.asarray(targets)
    count = int(max(answers.max(), targets.max())) + 1
    table = np.zeros((count, count), dtype=int)
    np.add.at(table, (targets, answers), 1)
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, COUNTS, vmin=0, vmax=1)
    for (row, column), n in np.ndenumerate(table):
        if n:
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(n), ha="center", va="center", color=color, fontsize="small")
    axes.set(xticks=range(count), yticks=range(count), xlabel="answer", ylabel="class")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return axes


def spectrum(axes: Axes, named: Mapping[str, Float[np.ndarray, " n"]]) -> Axes:
    """Eigenvalues by their sizes, the largest first, on a logarithmic scale.

    Args:
        axes: where to draw.
        named: eigenvalues, or singular values, for each label.

    Returns:
        The axes. Negative ones are hollow; those that are 0 up to rounding are not shown.

    Example:
        >>> from matplotlib.figure import Figure
        >>> axes = spectrum(Figure().subplots(), {"Hessian": np.array([-1.0, 3.0, 0.1])})
        >>> axes.lines[0].get_ydata().tolist()
        [3.0, 1.0, 0.1]
    """
    for i, (label, values) in enumerate(named.items()):
        color, _, marker = style(i)
        ordered = np.asarray(values)[np.argsort(-np.abs(values), kind="stable")]
        place, sizes = np.arange(1, len(ordered) + 1), np.abs(ordered)
        eps = np.finfo(np.result_type(sizes, np.float16)).eps
        rounding = len(sizes) * eps * sizes.max(initial=0)
        sizes = np.where(sizes > rounding, sizes, np.nan)
        axes.plot(
            place, sizes, color=color, linewidth=0.8, label=label, marker=marker, markersize=4
        )
        down = (ordered < 0) & (sizes > 0)
        if down.any():
            axes.plot(
                place[down], sizes[down], marker, color=color, markersize=4,
                markerfacecolor="white", zorder=3, label=f"{label}, negative",
            )  # fmt: skip
    axes.set(yscale="log", xlabel="largest first", ylabel="eigenvalue")
    return _bare(axes)


def _bare(axes: Axes) -> Axes:
    """The axes without the frame's upper and right side."""
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _pale(color: str) -> tuple[float, ...]:
    """A color mixed with white."""
    return tuple(0.72 + 0.28 * part for part in to_rgb(color))


def _frame(corner: tuple[float, float], width: int, height: int) -> Rectangle:
    """A thin frame around a small image."""
    return Rectangle(corner, width, height, fill=False, edgecolor="#bbbbbb", linewidth=0.6)
