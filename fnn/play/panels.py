"""What is shown of a match: panels of marks, the same for the page and for a film."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from fnn.play.marks import FAINT, GRID, INK, PAPER, Box, Dots, Line, Mark, Panel, Picture, Words
from fnn.play.match import Match
from fnn.play.networks import RULES, network, regions

WIDTH, HEIGHT = 320.0, 224.0
"""Of a chart; three stand side by side on a projector, and one fills a telephone."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 10.0, 38.0, 34.0

DECADES = 8
"""Curves are followed no farther down below the highest: float32 has no more digits."""


def panels(match: Match) -> dict[str, Panel]:
    """All panels by their names, in the order of the page."""
    first, second = match.runners
    return {
        "first-regions": regions(match, 0),
        "first-network": network(match, first),
        "second-regions": regions(match, 1),
        "second-network": network(match, second),
        "loss-steps": losses(match, "steps"),
        "loss-seconds": losses(match, "seconds"),
        "gradient": gradients(match),
        "first-spectrum": spectrum(match, 0),
        "second-spectrum": spectrum(match, 1),
        "slice": on_slice(match),
    }


# Curves -------------------------------------------------------------------------------------------


class Axis(NamedTuple):
    """From numbers to places along one axis.

    Attributes:
        place: `place(number)`, an array in, an array out.
        ticks: labels by their places.
    """

    place: Callable[[Float[np.ndarray, " n"]], Float[np.ndarray, " n"]]
    ticks: Mapping[float, str]


def losses(match: Match, over: str) -> Panel:
    """The loss over steps or seconds: solid of training, dashed of the test."""
    rows = [runner.rows for runner in match.runners]
    across = [
        np.array([row.step if over == "steps" else row.seconds for row in mine]) for mine in rows
    ]
    train = [np.array([row.loss for row in mine]) for mine in rows]
    test = [np.array([row.test for row in mine]) for mine in rows]
    x = _linear(max(float(xs[-1]) for xs in across), 10 if over == "steps" else 1e-3)
    y = _logarithmic([*train, *test])
    marks = _frame(f"Loss over {over}", x, y, "solid: training, dashed: test")
    for xs, solid, dashed, color in zip(across, train, test, RULES, strict=True):
        marks += _curve(x, y, xs, dashed, color, 1.1, (4, 3))
        marks += _curve(x, y, xs, solid, color, 2.0)
    marks += _names(match)
    said = "; ".join(f"{runner.rule} {runner.rows[-1].loss:.3g}" for runner in match.runners)
    return Panel(WIDTH, HEIGHT, marks, f"The loss over {over}: {said}")


def gradients(match: Match) -> Panel:
    """The norm of the gradient over steps."""
    across = [np.array([row.step for row in runner.rows]) for runner in match.runners]
    slopes = [np.array([row.slope for row in runner.rows]) for runner in match.runners]
    x = _linear(max(float(xs[-1]) for xs in across), 10)
    y = _logarithmic(slopes)
    marks = _frame("Norm of the gradient", x, y, "over steps")
    for xs, ys, color in zip(across, slopes, RULES, strict=True):
        marks += _curve(x, y, xs, ys, color, 1.6)
    marks += _names(match)
    said = "; ".join(f"{runner.rule} {runner.rows[-1].slope:.2g}" for runner in match.runners)
    return Panel(WIDTH, HEIGHT, marks, f"The norm of the gradient: {said}")


def spectrum(match: Match, number: int) -> Panel:
    """Eigenvalues of the Hessian, largest first, and the gradient along each eigenvector."""
    runner, color = match.runners[number], RULES[number]
    heading = f"Curvature under {runner.rule}"
    if runner.curvature is None:
        empty = _linear(1, 1)
        marks = _frame(heading, empty, Axis(lambda ys: ys, {}), "")
        said = "The network is too large for a picture of its Hessian"
        marks.append(Words(WIDTH / 2, HEIGHT / 2, said, 10.5, FAINT, "middle"))
        return Panel(WIDTH, HEIGHT, marks, f"{heading}: {said}")
    order = np.argsort(-np.abs(runner.curvature.eigenvalues))
    values = runner.curvature.eigenvalues[order]
    slopes = np.abs(runner.curvature.slopes[order])
    x = _linear(len(values), 1)
    floor = max(float(np.abs(values).max()), float(slopes.max()), 1e-30) / 10**DECADES
    y = _logarithmic([np.abs(values), slopes])
    across = x.place(np.arange(len(values)) + 0.5)
    marks = _frame(heading, x, y, "eigenvalues of the Hessian, by size")
    heights = y.place(slopes)
    marks.append(Line(list(zip(across.tolist(), heights.tolist(), strict=True)), FAINT, 0.9))
    heights = y.place(np.abs(values))
    for fill, chosen in ((color, values > 0), (PAPER, values <= 0)):
        points = list(zip(across[chosen].tolist(), heights[chosen].tolist(), strict=True))
        marks.append(Dots(points, 1.8, fill, color))
    negative = int((values < -floor).sum())
    key = f"full: above 0, hollow: below ({negative}); gray: gradient"
    marks.append(Words(10, 31, key, 10, FAINT))
    said = f"from {values.max():.2g} to {values.min():.2g}, {negative} below 0"
    return Panel(WIDTH, HEIGHT, marks, f"{heading}: eigenvalues {said}")


def on_slice(match: Match) -> Panel:
    """The loss on the plane through the start and both places, and the paths."""
    seen = match.slice
    if seen is None:
        return Panel(WIDTH, HEIGHT, [], "No slice of the loss yet")
    side = HEIGHT - 52.0
    left, top = (WIDTH - side) / 2, 26.0
    values = np.log(np.clip(np.nan_to_num(seen.losses, nan=1e30, posinf=1e30), 1e-9, 1e30))
    ranks = np.argsort(np.argsort(values, None)).reshape(values.shape) / (values.size - 1)
    shade = (np.array([54.0, 74.0, 112.0]) * (1 - ranks[..., None])) + 245 * ranks[..., None]
    marks: list[Mark] = [
        Words(10, 16, "A slice of the loss", 12, INK, bold=True),
        Picture(left, top, side, side, shade.astype(np.uint8)),
    ]
    low, high = seen.corners[:, 0], seen.corners[:, 1]
    for path, color in zip(seen.paths, RULES, strict=True):
        places = (path - low) / (high - low)
        points = [
            (left + side * float(x), top + side * float(1 - y))
            for x, y in np.clip(np.nan_to_num(places), 0, 1)
        ]
        if len(points) > 1:
            marks += [Line(points, PAPER, 3.4), Line(points, color, 1.8)]
        marks.append(Dots(points[-1:], 4.5, color))
    start = (seen.paths[0][0] - low) / (high - low)
    marks.append(Dots([(left + side * start[0], top + side * (1 - start[1]))], 4, PAPER, INK))
    marks.append(Box(left, top, side, side, edge=FAINT))
    foot = "through the start (white) and both ends; dark is low"
    marks.append(Words(WIDTH / 2, HEIGHT - 10, foot, 10, FAINT, "middle"))
    return Panel(WIDTH, HEIGHT, marks, "The loss on the plane through the start and both ends")


def _frame(heading: str, x: Axis, y: Axis, foot: str) -> list[Mark]:
    """The heading, the grid and the labels of a chart."""
    marks: list[Mark] = [Words(10, 16, heading, 12, INK, bold=True)]
    for at, label in y.ticks.items():
        marks.append(Line([(_LEFT, at), (WIDTH - _RIGHT, at)], GRID))
        marks.append(Words(_LEFT - 5, at + 3.5, label, 10, FAINT, "end"))
    for at, label in x.ticks.items():
        at, anchor = (at, "middle") if at < WIDTH - 16 else (WIDTH - 4, "end")
        marks.append(Words(at, HEIGHT - _BOTTOM + 13, label, 10, FAINT, anchor))
    bottom = HEIGHT - _BOTTOM
    marks.append(Line([(_LEFT, _TOP), (_LEFT, bottom), (WIDTH - _RIGHT, bottom)], FAINT))
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    return [*marks, Words(middle, HEIGHT - 6, foot, 10, FAINT, "middle")]


def _names(match: Match) -> list[Mark]:
    """Both rules in their colors."""
    first, second = (runner.rule for runner in match.runners)
    return [
        Words(10, 31, first, 10.5, RULES[0], bold=True),
        Words(WIDTH - _RIGHT, 31, second, 10.5, RULES[1], "end", True),
    ]


def _curve(
    x: Axis,
    y: Axis,
    xs: Float[np.ndarray, " n"],
    ys: Float[np.ndarray, " n"],
    color: str,
    width: float,
    dash: tuple[float, float] | None = None,
) -> list[Mark]:
    """A line, and a dot at its end."""
    seen = np.isfinite(ys)
    points = list(zip(x.place(xs[seen]).tolist(), y.place(ys[seen]).tolist(), strict=True))
    end: list[Mark] = [Dots(points[-1:], 2.6, color)] if points and dash is None else []
    return [Line(points, color, width, dash), *end] if len(points) > 1 else end


def _linear(highest: float, least: float) -> Axis:
    """A level axis of even steps from 0, at least to `least`, with three or so ticks."""
    span = max(highest, least)
    unit = 10 ** np.floor(np.log10(span / 3))
    step = next(unit * k for k in (1, 2, 5, 10) if span / (unit * k) <= 4.5)

    def place(numbers: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        return _LEFT + np.asarray(numbers) / span * (WIDTH - _RIGHT - _LEFT)

    ticks = np.arange(int(span / step + 1e-6) + 1) * step
    return Axis(place, {float(place(tick)): f"{tick:g}" for tick in ticks})


def _logarithmic(curves: Sequence[Float[np.ndarray, " n"]]) -> Axis:
    """An upright axis of powers of ten that holds all curves."""
    numbers = np.concatenate(curves)
    numbers = np.maximum(numbers[np.isfinite(numbers)], 1e-30)
    numbers = np.maximum(numbers, numbers.max(initial=1e-30) / 10**DECADES)
    low, high = np.log10(numbers.min()), np.log10(numbers.max())
    margin = max(0.05 * (high - low), 0.1)
    low, high = low - margin, high + margin
    top, bottom = _TOP + 2, HEIGHT - _BOTTOM

    def place(numbers: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        logs = np.log10(np.maximum(numbers, 10.0**low))
        return bottom - (logs - low) / (high - low) * (bottom - top)

    stride = max(1, round((high - low) / 4))
    powers = [p for p in range(int(np.ceil(low)), int(np.floor(high)) + 1) if p % stride == 0]
    if len(powers) < 2:
        marks = [10.0**low * 10 ** ((high - low) * share) for share in (0.1, 0.5, 0.9)]
        return Axis(place, {float(place(np.array(m))): f"{m:.2g}" for m in marks})
    labels = {p: f"{10.0**p:g}" if -4 < p < 4 else f"1e{p}" for p in powers}
    return Axis(place, {float(place(np.array(10.0**p))): labels[p] for p in powers})
