"""Surfaces over the plane and the paths that rules take on them, still and moving."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import BoundaryNorm, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fnn.plots.curves import stroke
from fnn.plots.film import film, require_film
from fnn.plots.style import style

SIZE = 8.0, 5.0
"""Width and height in inches: a square picture with room for a legend beside it."""

PLACES = 201
"""The surface is read at so many places along each axis, a few dots of a printed figure apart. The
number is odd, so that the middle, where a minimum often lies, is a place."""

LEVELS = 19
"""So many lines of equal height are still told apart in a picture of this size."""

FAR = 100.0
"""A path is followed no farther than so many widths of the picture away: what lies beyond tells its
direction alone, and coordinates near the largest number would overflow where they become dots."""

MARKS = 12
"""So many marks tell a path's color and speed, and do not hide it."""


class Landscape(NamedTuple):
    """A surface over the plane, and what of it is looked at.

    Attributes:
        title: what stands above the picture.
        surface: `surface(x) -> scalar` for an array x of shape (2,), a function that JAX can map.
        xlim: where the first axis begins and ends.
        ylim: where the second axis begins and ends.
        minima: points that are marked by stars.
        saddles: points that are marked by crosses.
    """

    title: str
    surface: Callable[[Array], Array]
    xlim: tuple[float, float]
    ylim: tuple[float, float]
    minima: Sequence[tuple[float, float]] = ()
    saddles: Sequence[tuple[float, float]] = ()


Paths = Mapping[str, Float[np.ndarray, "points 2"]]


def contours(
    axes: Axes,
    surface: Callable[[Array], Array],
    xlim: tuple[float, float],
    ylim: tuple[float, float],
) -> Axes:
    """Lines of equal height over shades, darker where lower.

    The heights are a power of even steps above the lowest, chosen so that half of the picture is
    below the middle line: a bowl's and a steep valley's floor are both seen.

    Args:
        axes: where to draw.
        surface: `surface(x) -> scalar` for an array x of shape (2,), a function that JAX can map.
        xlim: where the first axis begins and ends.
        ylim: where the second axis begins and ends.

    Returns:
        The axes.

    Example:
        >>> axes = contours(Figure().subplots(), lambda x: x @ x, (-1, 1), (-2, 2))
        >>> axes.get_xlim()
        (np.float64(-1.0), np.float64(1.0))
    """
    x, y = np.meshgrid(np.linspace(*xlim, PLACES), np.linspace(*ylim, PLACES))
    points = jnp.asarray(np.stack([x.ravel(), y.ravel()], axis=1))
    heights = np.asarray(jax.jit(jax.vmap(surface))(points), dtype=float).reshape(x.shape)
    heights = np.ma.masked_invalid(heights)
    low, middle, high = heights.min(), np.ma.median(heights), heights.max()
    power = np.log((middle - low) / (high - low)) / np.log(0.5) if low < middle < high else 1.0
    levels = low + (high - low) * np.linspace(0, 1, LEVELS) ** power
    if low < high:
        shades = LinearSegmentedColormap.from_list("shades", ["#b4c7d7", "#ffffff"])
        norm = BoundaryNorm(levels, shades.N)
        axes.contourf(x, y, heights, levels, cmap=shades, norm=norm)
        lines = axes.contour(x, y, heights, levels[1:-1], colors="#8796a3", linestyles="solid")
        lines.set(linewidth=0.5)
    axes.set(xlim=xlim, ylim=ylim, xlabel="x", ylabel="y")
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def paths(axes: Axes, named: Paths) -> Axes:
    """Paths over a plane, told apart by color, line and marker, with a large marker at each end.

    The limits come first: a path is followed no farther than a hundred widths of the picture away,
    and ends before its first point that is not finite.

    Args:
        axes: where to draw, limits set.
        named: points for each label, the start first.

    Returns:
        The axes.

    Example:
        >>> axes = paths(Figure().subplots(), {"sgd": np.array([[0.5, 0.5], [0.5, 1.0]])})
        >>> axes.lines[0].get_xydata().tolist()
        [[0.5, 0.5], [0.5, 1.0]]
    """
    for (line, end), path in zip(_walkers(axes, named), named.values(), strict=True):
        _show(line, end, _followed(axes, path), len(path))
    return axes


def landscape_figure(landscape: Landscape, named: Paths) -> Figure:
    """A surface and the paths over it, with a legend beside them.

    Args:
        landscape: the surface.
        named: points for each label, the start first, which is marked.

    Returns:
        The figure.

    Example:
        >>> bowl = Landscape("bowl", lambda x: x @ x, (-1, 1), (-1, 1), minima=[(0, 0)])
        >>> figure = landscape_figure(bowl, {"sgd": np.array([[0.5, 0.5], [0.1, 0.1]])})
        >>> [text.get_text() for text in figure.legends[0].get_texts()]
        ['sgd', 'start', 'minimum']
    """
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    contours(axes, landscape.surface, landscape.xlim, landscape.ylim)
    axes.set_title(landscape.title, loc="left")
    paths(axes, named)
    starts = np.array([path[0] for path in named.values()])
    light: dict[str, Any] = {"color": "black", "markerfacecolor": "white", "linestyle": ""}
    axes.plot(*starts.T, marker="o", markersize=9, zorder=3, label="start", **light)
    if len(landscape.minima):
        x, y = np.transpose(landscape.minima)
        axes.plot(x, y, marker="*", markersize=20, zorder=2.2, label="minimum", **light)
    if len(landscape.saddles):
        x, y = np.transpose(landscape.saddles)
        axes.plot(x, y, marker="X", markersize=15, zorder=2.2, label="saddle", **light)
    figure.legend(loc="outside right center", frameon=False, handlelength=3.2, labelspacing=0.7)
    return figure


def animate(
    file: str | Path,
    landscape: Landscape,
    named: Paths,
    *,
    seconds: float = 10.0,
    frames: int = 100,
    dpi: int = 100,
) -> Path:
    """Writes the paths being walked, as an animated picture or a film.

    Args:
        file: ends with .gif or .mp4.
        landscape: the surface.
        named: points for each label, the start first, which is marked.
        seconds: how long the walk takes, more than 0; its end is shown for two more.
        frames: the most pictures, at least 2, evenly spaced over the steps.
        dpi: dots per inch, of 8 by 5 inches.

    Returns:
        The file.

    A file whose name ends otherwise is a ValueError, an MP4 without ffmpeg a RuntimeError.

    Example:
        >>> animate("bowl.avi", Landscape("bowl", lambda x: x @ x, (-1, 1), (-1, 1)), {})
        Traceback (most recent call last):
        ValueError: animate: expected a file that ends with .gif or .mp4, got 'bowl.avi'; try ...
    """
    file = Path(file)
    require_film("animate", file)
    longest = max(len(path) for path in named.values())
    steps = np.unique(np.rint(np.linspace(longest - 1, 0, min(frames, longest))).astype(int))
    pictures = _pictures(landscape, named, steps, dpi)
    return film(file, pictures, len(steps) / seconds)


def _pictures(
    landscape: Landscape, named: Paths, steps: Int[np.ndarray, " frames"], dpi: int
) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
    """The figure with the paths up to each of the steps; what does not move is drawn once."""
    figure = landscape_figure(landscape, named)
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    (axes,) = figure.axes
    moving = axes.lines[: 2 * len(named) + 1]
    *walkers, start = moving
    lines, ends = walkers[::2], walkers[1::2]
    tracks = [_followed(axes, path) for path in named.values()]
    longest = max(len(path) for path in named.values())
    counter = axes.text(1, 1.02, "", transform=axes.transAxes, ha="right", va="bottom")
    for artist in moving:
        artist.set_visible(False)
    canvas.draw()
    still = canvas.copy_from_bbox(figure.bbox)
    for artist in moving:
        artist.set_visible(True)
    for step in steps:
        canvas.restore_region(still)
        counter.set_text(f"step {step}")
        for line, end, track in zip(lines, ends, tracks, strict=True):
            _show(line, end, track[: step + 1], longest)
        for artist in (*lines, start, *ends, counter):
            axes.draw_artist(artist)
        yield np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[:, :, :3])


def _walkers(axes: Axes, named: Collection[str]) -> list[tuple[Line2D, Line2D]]:
    """An empty line and its end for each label; thin ones lie over thick ones, so all are seen."""
    walkers = []
    for i, (label, width) in enumerate(zip(named, np.linspace(3.5, 1.4, len(named)), strict=True)):
        look = {**stroke(style(i)), "marker": style(i).marker}
        look |= {"markeredgecolor": "white", "markeredgewidth": 0.7}
        (line,) = axes.plot(
            [], [], label=label, zorder=2.5, linewidth=width, markersize=5.5, **look
        )
        look["linestyle"] = ""
        (end,) = axes.plot([], [], zorder=4, markersize=9.5, **look)
        walkers.append((line, end))
    return walkers


def _show(line: Line2D, end: Line2D, points: Float[np.ndarray, "n 2"], length: int) -> None:
    """Moves a line through the points, and its end; a path of that length has `MARKS` marks."""
    line.set_data(*points.T)
    every = -(-length // MARKS)
    line.set_markevery(list(range(every, len(points), every)))
    end.set_data(*points[-1:].T)


def _followed(axes: Axes, path: Float[np.ndarray, "points 2"]) -> Float[np.ndarray, "n 2"]:
    """The path as long as it is finite, cut off where it goes farther than `FAR`."""
    limits = np.array([axes.get_xlim(), axes.get_ylim()])
    middle, reach = np.mean(limits, axis=1), FAR * np.abs(np.diff(limits, axis=1)[:, 0])
    with np.errstate(invalid="ignore", over="ignore"):
        away = np.max(np.abs((path - middle) / reach), axis=1)
    outside = ~(away <= 1)
    if not np.any(outside):
        return path
    first = int(np.argmax(outside))
    if first == 0 or not np.isfinite(away[first]):
        return path[:first]
    last = path[first - 1] + (path[first] - path[first - 1]) / away[first]
    return np.concatenate([path[:first], last[None]])
