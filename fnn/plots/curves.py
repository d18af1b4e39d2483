"""What was measured of several things, drawn under their labels.

They know nothing of races: they take arrays under labels. Lower is better on every axis of losses,
infinity is a run that diverged or never arrived. Labels keep their colors from figure to figure if
they come in the same order.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator

COLORS = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7A7A7A"
"""Okabe and Ito's, told apart with every kind of color vision; a gray that shows on black and on
white instead of their black, and no yellow."""

DASHES = (), (4, 1.5), (4, 1.5, 1, 1.5), (1, 1.5), (7, 1.5), (2.2, 1.2), (5, 1.5, 1, 1.5, 1, 1.5)
"""Strokes and gaps in widths of the line: lines are told apart in print too."""

MARKERS = "o", "s", "^", "D", "v", "P", "X"


class Style(NamedTuple):
    """How one label is drawn."""

    color: str
    dash: tuple[float, ...]
    marker: str


def style(i: int) -> Style:
    """The look of the i-th label: 49 different ones.

    Args:
        i: counted from 0.

    Returns:
        A color, the dashes of its lines, and its marker.

    Example:
        >>> style(0)
        Style(color='#0072B2', dash=(), marker='o')
        >>> len({style(i) for i in range(49)})
        49
    """
    color, turn = i % len(COLORS), i // len(COLORS)
    look = (color + turn) % len(DASHES)
    return Style(COLORS[color], DASHES[look], MARKERS[look])


class Curve(NamedTuple):
    """Repeated measurements along an axis: `y[i]` at `x[i]` is the i-th repetition."""

    x: Float[np.ndarray, "repetitions n"]
    y: Float[np.ndarray, "repetitions n"]


class Band(NamedTuple):
    """The middle of a curve's repetitions, and where the middle half of them lies."""

    x: Float[np.ndarray, " m"]
    low: Float[np.ndarray, " m"]
    median: Float[np.ndarray, " m"]
    high: Float[np.ndarray, " m"]


def band(curve: Curve, points: int = 200) -> Band:
    """Quartiles over repetitions that were not measured at the same places.

    Repetitions are read between their measurements along straight lines, at the places that all
    have reached or stopped before. One that stopped keeps its last value; one that diverged is
    infinite from the last finite measurement on.

    Args:
        curve: repetitions; `x` ascends in each.
        points: at most so many places, the last one among them.

    Returns:
        The quartiles; repetitions of equal `x` are not interpolated.

    Example:
        >>> x = np.array([[1.0, 2.0, 3.0]] * 2)
        >>> print(band(Curve(x, np.array([[4.0, 2.0, 1.0], [6.0, 4.0, np.inf]]))).median)
        [ 5.  3. inf]
    """
    places = np.unique(np.max(curve.x, axis=0))
    if len(places) > points:
        places = places[np.linspace(0, len(places) - 1, points).round().astype(int)]
    rows = []
    for x, y in zip(curve.x, curve.y, strict=True):
        finite = np.isfinite(y)
        until = len(y) if finite.all() else int(np.argmin(finite))
        after = np.inf if until < len(y) else y[-1]
        rows.append(
            np.interp(places, x[:until], y[:until], right=after)
            if until
            else np.full(len(places), np.inf)
        )
    return Band(places, *_middle_half(np.array(rows), axis=0))


def window(bands: Sequence[Band]) -> tuple[float, float]:
    """What to show of losses: all of the medians and bands, save what blows up.

    Args:
        bands: of all labels.

    Returns:
        The lowest and the highest value to show; what is above ten times the usual first value is
        left out.

    Example:
        >>> x = np.arange(2.0)
        >>> window([Band(x, x + 1, x + 2, x + 3), Band(x, x + 1, x + 2, np.full(2, 1e30))])
        (1.0, 20.0)
    """
    values = np.concatenate([np.concatenate([b.low, b.median, b.high]) for b in bands])
    values = values[np.isfinite(values)]
    firsts = [b.median[0] for b in bands if np.isfinite(b.median[0])]
    if not len(values) or not firsts:
        return 0.1, 1.0
    lowest, usual = float(np.min(values)), float(np.median(firsts))
    highest = min(float(np.max(values)), usual + 9 * abs(usual))
    if lowest == 0 < highest:  # a logarithmic axis has no place for it
        lowest = min(float(np.min(values[values > 0])), highest) / 10
    return lowest, highest if highest > lowest else lowest + 1


def curves(axes: Axes, named: Mapping[str, Curve], target: float | None = None) -> Axes:
    """Medians as lines, with bands over the middle half of the repetitions.

    Args:
        axes: where to draw.
        named: a curve for each label.
        target: a level to mark.

    Returns:
        The axes: logarithmic, the vertical one only where nothing is negative.

    Example:
        >>> from matplotlib.figure import Figure
        >>> curve = Curve(np.array([[1.0, 2.0]]), np.array([[3.0, 0.5]]))
        >>> curves(Figure().subplots(), {"adam": curve}, target=1.0).get_yscale()
        'log'
    """
    bands = {label: band(curve) for label, curve in named.items()}
    low, high = window(list(bands.values()))
    for i, (label, b) in enumerate(bands.items()):
        color, dash, _ = style(i)
        line = {"color": color, "linestyle": (0, dash) if dash else "-"}
        axes.plot(b.x, _drawn(b.median), label=_literal(label), linewidth=1.6, **line)
        axes.fill_between(b.x, *np.clip([b.low, b.high], low, high), color=color, alpha=0.15, lw=0)
    if target is not None:
        axes.axhline(target, color="black", linewidth=0.8, linestyle=(0, (1, 3)), zorder=0)
    axes.set_xscale("log")
    if low > 0:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.3, high * 1.3)
    else:
        axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    return _plain(axes)


def arrivals(axes: Axes, named: Mapping[str, Float[np.ndarray, " repetitions"]]) -> Axes:
    """A row for each label: a mark for each repetition at what it spent, a bar at the median.

    Beside the row stands how many arrived; the median counts those that did not as infinite.

    Args:
        axes: where to draw.
        named: what each repetition of a label spent until it arrived, infinity if it never did.

    Returns:
        The axes.

    Example:
        >>> from matplotlib.figure import Figure
        >>> axes = arrivals(Figure().subplots(), {"adam": np.array([1.0, 2.0, np.inf])})
        >>> axes.texts[-1].get_text()
        '2 of 3'
    """
    axes.text(1.02, 1, "reached", transform=axes.transAxes, va="bottom", fontsize="small")
    for i, spent in enumerate(named.values()):
        color, _, marker = style(i)
        arrived = np.sort(spent[np.isfinite(spent)])
        axes.plot(
            arrived, i + jitter(len(arrived)), marker, color=color, markersize=4.5, alpha=0.75,
            markeredgewidth=0,
        )  # fmt: skip
        middle = np.median(spent)
        if np.isfinite(middle):
            axes.plot([middle] * 2, [i - 0.36, i + 0.36], color="black", linewidth=1.6)
        text = f"{len(arrived)} of {len(spent)}"
        beside = axes.get_yaxis_transform()
        axes.text(1.02, i, text, transform=beside, va="center", fontsize="small")
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    return _rows(axes, list(named))


def jitter(n: int) -> Float[np.ndarray, " n"]:
    """Small offsets that part neighbors, the same ones every time.

    Args:
        n: how many.

    Returns:
        Numbers between -0.25 and 0.25, the fractional parts of multiples of the golden ratio.

    Example:
        >>> bool(np.all(np.abs(jitter(100)) <= 0.25))
        True
    """
    return 0.5 * (np.arange(1, n + 1) * 0.5 * (5**0.5 - 1) % 1) - 0.25


def profile(
    axes: Axes,
    ratios: Mapping[str, Float[np.ndarray, " instances"]],
    largest: float = 4.0,
) -> Axes:
    """Performance profiles: of each label, the share of instances within a multiple of the fastest.

    Args:
        axes: where to draw.
        ratios: of each instance, the time over that of the fastest label; infinity is a miss.
        largest: the ratio at which the axis ends.

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
    for i, (label, ratio) in enumerate(ratios.items()):
        color, dash, _ = style(i)
        line = {"color": color, "linestyle": (0, dash) if dash else "-", "label": _literal(label)}
        axes.plot(*staircase(ratio, largest), drawstyle="steps-post", linewidth=1.6, **line)
    axes.set_xscale("log")
    axes.set(xlim=(1, largest), ylim=(-0.02, 1.02))
    ticks = [tick for tick in (1, 1.5, 2, 3, 4, 6, 8, 10) if tick <= largest]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    return _plain(axes)


def staircase(
    ratios: Float[np.ndarray, " instances"], largest: float
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """The corners of a performance profile.

    Args:
        ratios: of each instance, at least 1; infinity is a miss.
        largest: where the staircase ends.

    Returns:
        Ratios from 1 to `largest`, and the share of instances within each.

    Example:
        >>> x, y = staircase(np.array([3.0, np.inf]), 4.0)
        >>> print(x, y)
        [1. 3. 4.] [0.  0.5 0.5]
    """
    inside = ratios[ratios <= largest]
    x = np.unique(np.concatenate([[1.0], inside, [largest]]))
    return x, np.array([np.mean(ratios <= place) for place in x])


def ranks(
    axes: Axes,
    mean_ranks: Mapping[str, float],
    groups: Sequence[Sequence[str]],
    difference: float,
) -> Axes:
    """A critical-difference diagram: labels at their mean ranks, bars over those not told apart.

    Args:
        axes: where to draw; the frame goes.
        mean_ranks: of each label, 1 the best.
        groups: labels that are not told apart, those next to each other in rank.
        difference: what two mean ranks must differ by; drawn as a ruler.

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
    ordered = sorted(mean_ranks, key=lambda label: mean_ranks[label])
    n, half = len(ordered), (len(ordered) + 1) // 2
    bars = 0.5 * (len(groups) + 1)  # the names begin below the bars
    depth = bars + half
    left, right = 1 - 0.04 * (n - 1), n + 0.04 * (n - 1)
    axes.plot([1, n], [0, 0], color="black", linewidth=1)
    for rank in range(1, n + 1):
        axes.plot([rank, rank], [0, -0.2], color="black", linewidth=1)
        axes.text(rank, -0.3, str(rank), ha="center", va="bottom", fontsize="small")
    for i, label in enumerate(ordered):
        first = i < half
        y = bars + (i if first else n - 1 - i) + 0.5
        x, end = mean_ranks[label], left if first else right
        axes.plot([x, x, end], [0, y, y], color="black", linewidth=0.8)
        name = _literal(label)
        text = f"{name}  {x:.2f}" if first else f"{x:.2f}  {name}"
        axes.annotate(
            text, (end, y), (-4 if first else 4, 0), va="center",
            textcoords="offset points", ha="right" if first else "left",
        )  # fmt: skip
    for i, group in enumerate(groups):
        ends = [mean_ranks[group[0]] - 0.03 * n / 8, mean_ranks[group[-1]] + 0.03 * n / 8]
        axes.plot(ends, [0.5 * (i + 1)] * 2, color=COLORS[1], linewidth=3.5, solid_capstyle="round")
    ruler = min(difference, n - 1)
    axes.plot([1, 1, 1 + ruler, 1 + ruler], [-1.4, -1.6, -1.6, -1.4], color="black", linewidth=1)
    axes.text(1 + ruler / 2, -1.75, f"CD = {difference:.2f}", ha="center", fontsize="small")
    axes.set(xlim=(left, right), ylim=(depth + 0.2, -2.4))
    axes.axis("off")
    return axes


class Sweep(NamedTuple):
    """Losses against a hyperparameter: `loss[i, j]` is the j-th repetition at `setting[i]`."""

    setting: Float[np.ndarray, " n"]
    loss: Float[np.ndarray, "n repetitions"]


def sensitivity(
    axes: Axes, named: Mapping[str, Sweep], labels: Sequence[str] | None = None
) -> Axes:
    """Median losses against a hyperparameter, with bars over the middle half of repetitions.

    Args:
        axes: where to draw.
        named: a sweep for each label; settings that diverged are crosses at the upper edge.
        labels: all labels of the other figures, in order, for the same colors; `named` if None.

    Returns:
        The axes.

    Example:
        >>> from matplotlib.figure import Figure
        >>> sweep = Sweep(np.array([0.1, 0.01, 1.0]), np.array([[1.0], [2.0], [np.inf]]))
        >>> axes = sensitivity(Figure().subplots(), {"adam": sweep})
        >>> axes.lines[0].get_xdata().tolist()
        [0.01, 0.1, 1.0]
    """
    bands = {label: across(sweep) for label, sweep in named.items()}
    low, high = window(list(bands.values()))
    pad = (high / low) ** 0.06 if low > 0 else 0.06 * (high - low)
    top, bottom = (high * pad, low / pad) if low > 0 else (high + pad, low - pad)
    labels = list(named if labels is None else labels)
    for label, b in bands.items():
        color, dash, marker = style(labels.index(label))
        line = {"color": color, "linestyle": (0, dash) if dash else "-", "label": _literal(label)}
        axes.plot(b.x, _drawn(b.median), marker=marker, markersize=4, linewidth=1.3, **line)
        axes.vlines(b.x, *np.clip([b.low, b.high], bottom, top), color=color, alpha=0.5, lw=1.3)
        lost = b.x[~(b.median <= top)]
        axes.plot(lost, np.full(len(lost), top), "x", color=color, markersize=6, clip_on=False)
    axes.set_xscale("log")
    if low > 0:
        axes.set_yscale("log")
    axes.set_ylim(bottom, top)
    return _plain(axes)


def across(sweep: Sweep) -> Band:
    """Quartiles of the repetitions at each setting, in ascending order.

    Args:
        sweep: settings in any order.

    Returns:
        The quartiles, settings as `x`.

    Example:
        >>> across(Sweep(np.array([2.0, 1.0]), np.array([[5.0], [7.0]]))).median.tolist()
        [7.0, 5.0]
    """
    order = np.argsort(sweep.setting)
    loss = sweep.loss[order]
    return Band(sweep.setting[order], *_middle_half(loss, axis=1))


def _middle_half(
    values: Float[np.ndarray, "n m"], axis: int
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Quartiles and the median; the quartiles are values, the outer ones where two are as near."""
    low = np.quantile(values, 0.25, axis=axis, method="lower")
    high = np.quantile(values, 0.75, axis=axis, method="higher")
    return low, np.median(values, axis=axis), high


def _drawn(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """What a line is drawn through: nothing at infinity."""
    return np.where(np.isfinite(values), values, np.nan)


def _literal(label: str) -> str:
    """A label in which dollar signs are dollar signs."""
    return label.replace("$", r"\$")


def _plain(axes: Axes) -> Axes:
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _rows(axes: Axes, labels: Sequence[str]) -> Axes:
    """Labels as rows, the first one on top."""
    axes.set_yticks(range(len(labels)), [_literal(label) for label in labels])
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    _plain(axes).spines["left"].set_visible(False)
    return axes
