"""What was measured of several things, drawn under their labels on matplotlib's axes.

`panels` decides what is drawn; here is how.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator

from fnn.plots.panels import (
    Curve,
    RankPanel,
    Styles,
    Sweep,
    arrival_panel,
    band,
    curve_panel,
    profile_panel,
    rank_panel,
    sweep_panel,
    window,
)
from fnn.plots.style import COLORS, Style


def curves(
    axes: Axes,
    named: Mapping[str, Curve],
    target: float | None = None,
    looks: Styles | None = None,
) -> Axes:
    """Medians as lines, with bands over the middle half of the repetitions.

    Args:
        axes: where to draw.
        named: a curve for each label.
        target: a level to mark.
        looks: the style of each label, to have it from figure to figure; by their order if None.

    Returns:
        The axes: logarithmic, the vertical one only where nothing is negative.

    Example:
        >>> from matplotlib.figure import Figure
        >>> curve = Curve(np.array([[1.0, 2.0]]), np.array([[3.0, 0.5]]))
        >>> curves(Figure().subplots(), {"adam": curve}, target=1.0).get_yscale()
        'log'
    """
    bands = {label: band(curve) for label, curve in named.items()}
    panel = curve_panel(bands, window(list(bands.values())), looks)
    for label, look, b, line, low, high, _ in panel.ribbons:
        axes.plot(b.x, line, label=_literal(label), linewidth=1.6, **stroke(look))
        axes.fill_between(b.x, low, high, color=look.color, alpha=0.15, lw=0)
    if target is not None:
        axes.axhline(target, color="black", linewidth=0.8, linestyle=(0, (1, 3)), zorder=0)
    axes.set_xscale("log")
    if panel.logarithmic:
        axes.set_yscale("log")
    axes.set_ylim(panel.limits)
    return plain(axes)


def arrivals(
    axes: Axes,
    named: Mapping[str, Float[np.ndarray, " repetitions"]],
    looks: Styles | None = None,
) -> Axes:
    """A row for each label: a mark for each repetition at what it spent, a bar at the median.

    Beside the row stands how many arrived; the median counts those that did not as infinite.

    Args:
        axes: where to draw.
        named: what each repetition of a label spent until it arrived, infinity if it never did.
        looks: the style of each label, to have it from figure to figure; by their order if None.

    Returns:
        The axes.

    Example:
        >>> from matplotlib.figure import Figure
        >>> axes = arrivals(Figure().subplots(), {"adam": np.array([1.0, 2.0, np.inf])})
        >>> axes.texts[-1].get_text()
        '2 of 3'
    """
    panel = arrival_panel(named, looks)
    beside = axes.get_yaxis_transform()
    axes.text(1.02, 1, panel.heading, transform=axes.transAxes, va="bottom", fontsize="small")
    for i, row in enumerate(panel.rows):
        axes.plot(
            row.spent, row.height, row.style.marker, color=row.style.color, markersize=4.5,
            alpha=0.75, markeredgewidth=0,
        )  # fmt: skip
        if np.isfinite(row.median):
            axes.plot([row.median] * 2, row.bar, color="black", linewidth=1.6)
        axes.text(1.02, i, row.reached, transform=beside, va="center", fontsize="small")
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.set_yticks(range(len(panel.rows)), [_literal(row.label) for row in panel.rows])
    axes.set_ylim(panel.limits)
    axes.tick_params(axis="y", length=0)
    plain(axes).spines["left"].set_visible(False)
    return axes


def profile(
    axes: Axes,
    ratios: Mapping[str, Float[np.ndarray, " instances"]],
    largest: float = 4.0,
    looks: Styles | None = None,
) -> Axes:
    """Performance profiles: of each label, the share of instances within a multiple of the fastest.

    Args:
        axes: where to draw.
        ratios: of each instance, the time over that of the fastest label; infinity is a miss.
        largest: the ratio at which the axis ends.
        looks: the style of each label, to have it from figure to figure; by their order if None.

    Returns:
        The axes.

    Source:
        Dolan and More (2002), "Benchmarking optimization software with performance profiles",
        doi:10.1007/s101070100263.

    Example:
        >>> from matplotlib.figure import Figure
        >>> axes = profile(Figure().subplots(), {"adam": np.array([1.0, 2.0])})
        >>> axes.lines[0].get_xydata().tolist()
        [[1.0, 0.5], [2.0, 1.0], [4.0, 1.0]]
    """
    panel = profile_panel(ratios, largest, looks)
    for label, look, x, y in panel.stairs:
        line = {"label": _literal(label), "linewidth": 1.6, **stroke(look)}
        axes.plot(x, y, drawstyle="steps-post", **line)
    axes.set_xscale("log")
    axes.set(xlim=panel.xlim, ylim=panel.ylim)
    axes.set_xticks(panel.ticks, [f"{tick:g}" for tick in panel.ticks])
    axes.set_xticks([], minor=True)
    return plain(axes)


def ranks(
    axes: Axes,
    mean_ranks: Mapping[str, float],
    groups: Sequence[Sequence[str]],
    difference: float | None = None,
) -> Axes:
    """Labels at their mean ranks, bars over those not told apart: a critical-difference diagram.

    Args:
        axes: where to draw; the frame goes.
        mean_ranks: of each label, 1 the best.
        groups: labels that are not told apart; each has a dot on the bar of its group.
        difference: what two mean ranks must differ by, if that is the test; drawn as a ruler.

    Returns:
        The axes: the left half of the labels on the left, the others on the right.

    Source:
        Demsar (2006), "Statistical comparisons of classifiers over multiple data sets", figure 1,
        Journal of Machine Learning Research 7, 1-30.

    Example:
        >>> from matplotlib.figure import Figure
        >>> axes = Figure().subplots()
        >>> axes = ranks(axes, {"adam": 1.2, "sgd": 1.8}, [("adam", "sgd")], 0.9)
        >>> [text.get_text() for text in axes.texts[2:]]
        ['adam  1.20', '1.80  sgd', 'CD = 0.90']
    """
    panel = rank_panel(mean_ranks, groups, difference)
    n = len(panel.labels)
    axes.plot([1, n], [0, 0], color="black", linewidth=1)
    for rank in range(1, n + 1):
        axes.plot([rank, rank], [0, -0.2], color="black", linewidth=1)
        axes.text(rank, -0.3, str(rank), ha="center", va="bottom", fontsize="small")
    left, right = 1 - 0.04 * (n - 1), n + 0.04 * (n - 1)
    _names(axes, panel, left, right)
    for i, (first, last) in enumerate(panel.groups):
        ends = [panel.ranks[first] - 0.03 * n / 8, panel.ranks[last] + 0.03 * n / 8]
        axes.plot(ends, [0.5 * (i + 1)] * 2, color=COLORS[1], linewidth=3.5, solid_capstyle="round")
        dots = [panel.ranks[place] for place in panel.members[i]]
        axes.scatter(dots, [0.5 * (i + 1)] * len(dots), s=30, color=COLORS[1], zorder=3)
    if panel.ruler is not None:
        end = 1 + panel.ruler
        axes.plot([1, 1, end, end], [-1.4, -1.6, -1.6, -1.4], color="black", linewidth=1)
        axes.text((1 + end) / 2, -1.75, f"CD = {difference:.2f}", ha="center", fontsize="small")
    axes.set(xlim=(left, right), ylim=(panel.bars + panel.half + 0.2, -2.4))
    axes.axis("off")
    return axes


def sensitivity(axes: Axes, named: Mapping[str, Sweep], looks: Styles | None = None) -> Axes:
    """Median losses against a hyperparameter, with bars over the middle half of repetitions.

    Args:
        axes: where to draw.
        named: a sweep for each label; settings that diverged are crosses at the upper edge.
        looks: the style of each label, to have it from figure to figure; by their order if None.

    Returns:
        The axes.

    Example:
        >>> from matplotlib.figure import Figure
        >>> sweep = Sweep(np.array([0.1, 0.01, 1.0]), np.array([[1.0], [2.0], [np.inf]]))
        >>> axes = sensitivity(Figure().subplots(), {"adam": sweep})
        >>> axes.lines[0].get_xdata().tolist()
        [0.01, 0.1, 1.0]
    """
    panel = sweep_panel(named, looks)
    top = panel.limits[1]
    for label, look, b, line, low, high, above in panel.ribbons:
        points = {"marker": look.marker, "markersize": 4, "label": _literal(label)}
        axes.plot(b.x, line, linewidth=1.3, **points, **stroke(look))
        axes.vlines(b.x, low, high, color=look.color, alpha=0.5, lw=1.3)
        crosses = np.full(len(above), top)
        axes.plot(above, crosses, "x", color=look.color, markersize=6, clip_on=False)
    axes.set_xscale("log")
    if panel.logarithmic:
        axes.set_yscale("log")
    axes.set_ylim(panel.limits)
    return plain(axes)


def stroke(look: Style) -> dict[str, Any]:
    """A style's color and dashes, as matplotlib wants them."""
    return {"color": look.color, "linestyle": (0, look.dash) if look.dash else "-"}


def _names(axes: Axes, panel: RankPanel, left: float, right: float) -> None:
    """The labels on both sides, below the bars; a line joins each to its place on the axis."""
    n = len(panel.labels)
    for i, (label, x) in enumerate(zip(panel.labels, panel.ranks, strict=True)):
        first = i < panel.half
        y = panel.bars + (i if first else n - 1 - i) + 0.5
        end = left if first else right
        axes.plot([x, x, end], [0, y, y], color="black", linewidth=0.8)
        name = _literal(label)
        text = f"{name}  {x:.2f}" if first else f"{x:.2f}  {name}"
        axes.annotate(
            text, (end, y), (-4 if first else 4, 0), va="center",
            textcoords="offset points", ha="right" if first else "left",
        )  # fmt: skip


def _literal(label: str) -> str:
    """A label in which dollar signs are dollar signs, not mathematics."""
    return label.replace("$", r"\$")


def plain(axes: Axes) -> Axes:
    """The axes with a faint grid and without the frame's upper and right side."""
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    return axes
