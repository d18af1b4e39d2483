"""What each figure of measurements shows, as data: every decision but the brush.

A panel says which lines, bands, marks, limits and ticks a figure has. `curves` draws panels on
matplotlib's axes, and the script of a race's page draws the same ones. Panels know nothing of
races: they are made of arrays under labels. Lower is better on every axis of losses, and infinity
is a run that diverged or never arrived.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from fnn.plots.style import Style, styles

Styles = Mapping[str, Style]

# Losses along an axis -----------------------------------------------------------------------------

CURVE_FACTOR, CURVE_SHARE = 1.3, 0.05
"""A panel of curves shows so much more than its window: a factor on a logarithmic axis, a share of
the span on another. A line at the edge of the window then stands off the frame."""

SWEEP_SHARE = 0.06
"""A panel of sweeps shows so much more of its span, which is a span of logarithms on a logarithmic
axis. The crosses at the upper edge then stand off the highest medians."""


class Curve(NamedTuple):
    """Repeated measurements along an axis: `y[i]` at `x[i]` is the i-th repetition."""

    x: Float[np.ndarray, "repetitions n"]
    y: Float[np.ndarray, "repetitions n"]


class Sweep(NamedTuple):
    """Losses against a hyperparameter: `loss[i, j]` is the j-th repetition at `setting[i]`."""

    setting: Float[np.ndarray, " n"]
    loss: Float[np.ndarray, "n repetitions"]


class Band(NamedTuple):
    """The middle of a curve's repetitions, and where the middle half of them lies."""

    x: Float[np.ndarray, " m"]
    low: Float[np.ndarray, " m"]
    median: Float[np.ndarray, " m"]
    high: Float[np.ndarray, " m"]


class Ribbon(NamedTuple):
    """One label in a panel of losses.

    Attributes:
        label: what it is called.
        style: how it looks.
        band: its quartiles, finite or not.
        line: its medians, NaN where they are infinite and nothing is drawn.
        low: the lower edge of its band, cut off where the panel ends.
        high: the upper edge, cut off likewise.
        above: the places whose median lies above the panel.
    """

    label: str
    style: Style
    band: Band
    line: Float[np.ndarray, " m"]
    low: Float[np.ndarray, " m"]
    high: Float[np.ndarray, " m"]
    above: Float[np.ndarray, " k"]


class LossPanel(NamedTuple):
    """A ribbon for each label, and the vertical axis."""

    ribbons: list[Ribbon]
    limits: tuple[float, float]
    logarithmic: bool


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
    return Band(sweep.setting[order], *_middle_half(sweep.loss[order], axis=1))


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


def curve_panel(
    bands: Mapping[str, Band],
    view: tuple[float, float],
    looks: Styles | None = None,
    *,
    beyond: int = 0,
) -> LossPanel:
    """The medians of curves as lines, over the middle half of their repetitions.

    Args:
        bands: the quartiles of each label.
        view: the lowest and the highest value to show, as `window` finds them.
        looks: the style of each label; by their order if None.
        beyond: bands go on so many decades outside of the view, or spans on a linear axis, for a
            reader who zooms out.

    Returns:
        The panel: logarithmic where nothing in the view is negative.
    """
    ends = _widened(view, 10.0**beyond, beyond)
    looks = styles(bands) if looks is None else looks
    ribbons = [_ribbon(looks[label], label, b, ends) for label, b in bands.items()]
    return LossPanel(ribbons, _widened(view, CURVE_FACTOR, CURVE_SHARE), view[0] > 0)


def sweep_panel(named: Mapping[str, Sweep], looks: Styles | None = None) -> LossPanel:
    """Median losses against a hyperparameter, and the middle half of their repetitions.

    Args:
        named: a sweep for each label.
        looks: the style of each label; by their order if None.

    Returns:
        The panel: logarithmic where nothing in its window is negative.
    """
    bands = {label: across(sweep) for label, sweep in named.items()}
    low, high = window(list(bands.values()))
    factor = (high / low) ** SWEEP_SHARE if low > 0 else 1.0
    limits = _widened((low, high), factor, SWEEP_SHARE)
    looks = styles(named) if looks is None else looks
    ribbons = [_ribbon(looks[label], label, b, limits) for label, b in bands.items()]
    return LossPanel(ribbons, limits, low > 0)


def _middle_half(
    values: Float[np.ndarray, "n m"], axis: int
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Quartiles and the median; the quartiles are values, the outer ones where two are as near."""
    low = np.quantile(values, 0.25, axis=axis, method="lower")
    high = np.quantile(values, 0.75, axis=axis, method="higher")
    return low, np.median(values, axis=axis), high


def _widened(view: tuple[float, float], factor: float, share: float) -> tuple[float, float]:
    """Limits outside of a view: by a factor where it is positive, else by a share of its span."""
    low, high = view
    if low > 0:
        return low / factor, high * factor
    return low - share * (high - low), high + share * (high - low)


def _ribbon(look: Style, label: str, b: Band, ends: tuple[float, float]) -> Ribbon:
    """A label, its band cut off at both ends."""
    low, high = np.clip([b.low, b.high], *ends)
    line = np.where(np.isfinite(b.median), b.median, np.nan)
    return Ribbon(label, look, b, line, low, high, b.x[~(b.median <= ends[1])])


# Arrivals -----------------------------------------------------------------------------------------

MEDIAN_BAR = 0.36
"""A median's bar reaches so far above and below its row: farther than the marks, which `jitter`
keeps within a quarter, and not as far as the next row's bar."""


class Arrivals(NamedTuple):
    """One label in a panel of arrivals.

    Attributes:
        label: what it is called.
        style: how it looks.
        spent: what each repetition spent that arrived, in ascending order.
        height: where its mark lies, near the number of the row.
        median: over all repetitions, infinity where most of them missed.
        bar: the two ends of the bar at the median.
        reached: how many arrived, in words.
    """

    label: str
    style: Style
    spent: Float[np.ndarray, " n"]
    height: Float[np.ndarray, " n"]
    median: float
    bar: tuple[float, float]
    reached: str


class ArrivalPanel(NamedTuple):
    """A row for each label, and the vertical axis, on which the first row is on top."""

    rows: list[Arrivals]
    limits: tuple[float, float]
    heading: str = "reached"


def arrival_panel(
    named: Mapping[str, Float[np.ndarray, " repetitions"]], looks: Styles | None = None
) -> ArrivalPanel:
    """What each repetition of a label spent until it arrived, infinity if it never did."""
    looks = styles(named) if looks is None else looks
    rows = [
        _arrivals(i, label, looks[label], spent) for i, (label, spent) in enumerate(named.items())
    ]
    return ArrivalPanel(rows, (len(rows) - 0.4, -0.6))


def _arrivals(
    i: int, label: str, look: Style, spent: Float[np.ndarray, " repetitions"]
) -> Arrivals:
    """The i-th row."""
    arrived = np.sort(spent[np.isfinite(spent)])
    return Arrivals(
        label, look, arrived, i + jitter(len(arrived)), float(np.median(spent)),
        (i - MEDIAN_BAR, i + MEDIAN_BAR), f"{len(arrived)} of {len(spent)}",
    )  # fmt: skip


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


# Profiles -----------------------------------------------------------------------------------------

RATIO_TICKS = 1, 1.5, 2, 3, 4, 6, 8, 10
"""Ratios that are read as words ("half as long again, twice, three times"); a logarithmic axis
would choose powers of ten, of which a profile has one."""


class Stairs(NamedTuple):
    """One label in a performance profile: the corners of its staircase."""

    label: str
    style: Style
    x: Float[np.ndarray, " m"]
    y: Float[np.ndarray, " m"]


class ProfilePanel(NamedTuple):
    """A staircase for each label, and both axes; the horizontal one is logarithmic."""

    stairs: list[Stairs]
    xlim: tuple[float, float]
    ylim: tuple[float, float]
    ticks: list[float]


def profile_panel(
    ratios: Mapping[str, Float[np.ndarray, " instances"]],
    largest: float,
    looks: Styles | None = None,
) -> ProfilePanel:
    """For each label the share of instances within a multiple of the fastest, up to the largest."""
    looks = styles(ratios) if looks is None else looks
    stairs = [
        Stairs(label, looks[label], *staircase(ratio, largest)) for label, ratio in ratios.items()
    ]
    ticks = [tick for tick in RATIO_TICKS if tick <= largest]
    return ProfilePanel(stairs, (1, largest), (-0.02, 1.02), ticks)  # 0 and 1 stand off the frame


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


# Ranks --------------------------------------------------------------------------------------------


class RankPanel(NamedTuple):
    """Labels by their mean ranks, and which of them are not told apart.

    Attributes:
        labels: from the lowest mean rank to the highest.
        ranks: their mean ranks.
        groups: the places of the first and the last label of each group.
        members: the places of all labels of each group.
        difference: what two mean ranks must differ by; None where that is not the test.
        ruler: the same, as long as the axis of ranks at most.
        bars: how deep the bars over groups reach below the axis, half a row each.
        half: how many labels, the better ones, stand on the left of a diagram with two sides.
    """

    labels: list[str]
    ranks: list[float]
    groups: list[tuple[int, int]]
    members: list[list[int]]
    difference: float | None
    ruler: float | None
    bars: float
    half: int


def rank_panel(
    mean_ranks: Mapping[str, float],
    groups: Sequence[Sequence[str]],
    difference: float | None = None,
) -> RankPanel:
    """What a diagram of mean ranks shows; a group's labels may have others between them."""
    labels = sorted(mean_ranks, key=lambda label: mean_ranks[label])
    members = [sorted(labels.index(label) for label in group) for group in groups]
    return RankPanel(
        labels,
        [mean_ranks[label] for label in labels],
        [(places[0], places[-1]) for places in members],
        members,
        difference,
        None if difference is None else min(difference, len(labels) - 1),
        0.5 * (len(groups) + 1),
        (len(labels) + 1) // 2,
    )
