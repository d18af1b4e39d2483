"""What is shown of a match: panels of marks, the same for the page and for a film."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from fnn.play.marks import FAINT, GRID, INK, PAPER, Box, Dots, Line, Mark, Panel, Picture, Words
from fnn.play.match import Match, Runner
from fnn.plots import COLORS

WIDTH, HEIGHT = 320.0, 224.0
"""Of a chart; three stand side by side on a projector, and one fills a telephone."""

SIDE, SQUARE = 240.0, 236.0
"""Of a picture of a network, four of which stand side by side."""

RULES = COLORS[0], COLORS[1]
"""The colors of the first and of the second rule."""

LOW, HIGH = np.array([230.0, 159.0, 0.0]), np.array([86.0, 130.0, 200.0])
"""The colors of class 0 and low heights, and of class 1 and high ones."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 10.0, 38.0, 34.0
_HEAD = 38.0

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


def summary(match: Match, runner: Runner) -> str:
    """Where a rule stands, in one line."""
    row = runner.rows[-1]
    judged = f"{row.test:.2g}" if match.settings.is_regression else f"{runner.look.right:.0%} right"
    return f"step {row.step}, {_seconds(row.seconds)}, loss {row.loss:.2g}, test {judged}"


def _seconds(seconds: float) -> str:
    """Seconds with a unit that suits them."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


# Pictures of the network --------------------------------------------------------------------------


def regions(match: Match, number: int) -> Panel:
    """What a network answers all over the plane, and the points."""
    runner = match.runners[number]
    side = SQUARE - _HEAD - 4
    left, top = (SIDE - side) / 2, _HEAD
    task, answers = match.task, np.asarray(runner.look.grid)
    shares = _shares(answers, match.settings.is_regression)
    marks: list[Mark] = [
        Words(10, 16, runner.rule, 13, RULES[number], bold=True),
        Words(10, 31, summary(match, runner), 10.5, FAINT),
        Picture(left, top, side, side, _tint(shares)),
    ]
    scale = side / (2 * task.box)
    across = left + (task.points[:, 0] + task.box) * scale
    down = top + (task.box - task.points[:, 1]) * scale
    shades = np.clip(task.heights / 2 + 0.5 if match.settings.is_regression else task.heights, 0, 1)
    shades = np.rint(shades * 8) / 8
    for shade, trained in itertools.product(np.unique(shades), (True, False)):
        chosen = (shades == shade) & ((np.arange(len(shades)) < task.trained) == trained)
        points = list(zip(across[chosen].tolist(), down[chosen].tolist(), strict=True))
        color = _hex(_mixed(shade) * 0.72)
        if points:
            marks.append(Dots(points, 2.0, *((color, PAPER) if trained else (PAPER, color))))
    marks.append(Box(left, top, side, side, edge=FAINT))
    return Panel(SIDE, SQUARE, marks, f"{runner.rule}: the regions, {summary(match, runner)}")


def network(match: Match, runner: Runner) -> Panel:
    """The features, the output of every hidden unit over the plane, and all weights."""
    layers = runner.carry.params
    columns = len(layers) + 1
    most = max(leaf["weight"].shape[0] for leaf in layers)
    size = min(26.0, (SQUARE - 32) / most - 3)
    across = np.linspace(38, SIDE - 22, columns)
    counts = [*(layer["weight"].shape[0] for layer in layers), 1]
    places = [
        [(float(x), 24 + (SQUARE - 28) * (row + 0.5) / count) for row in range(count)]
        for x, count in zip(across, counts, strict=True)
    ]
    weights = [np.asarray(layer["weight"]) for layer in layers]
    marks: list[Mark] = []
    for matrix, starts, ends in zip(weights, places[:-1], places[1:], strict=True):
        marks += _edges(matrix, starts, ends, size / 2)
    for feature, (x, y) in zip(match.settings.seen, places[0], strict=True):
        marks.append(Words(x + size / 2 - 2, y + 4, feature, 12, anchor="end", bold=True))
    thumbs = iter(runner.look.hidden)
    for column in places[1:-1]:
        marks += [_thumb(next(thumbs), at, size) for at in column]
        marks += [Box(x - size / 2, y - size / 2, size, size, edge=INK) for x, y in column]
    x, y = places[-1][0]
    answers = _tint(_shares(np.asarray(runner.look.grid), match.settings.is_regression))
    marks.append(Picture(x - 15, y - 15, 30, 30, answers))
    marks.append(Box(x - 15, y - 15, 30, 30, edge=INK))
    heads = ["inputs", *["hidden units"] * (columns > 2), "output"]
    middles = [28.0, *[float(np.mean(across[1:-1]))] * (columns > 2), across[-1]]
    for head, middle in zip(heads, middles, strict=True):
        marks.append(Words(middle, 15, head, 10.5, FAINT, "middle"))
    return Panel(SIDE, SQUARE, marks, f"{runner.rule}: its units and weights")


def _edges(
    matrix: Float[np.ndarray, "i o"],
    starts: Sequence[tuple[float, float]],
    ends: Sequence[tuple[float, float]],
    half: float,
) -> Iterable[Mark]:
    """Lines for the weights, thick where they are large next to the largest of their layer."""
    sizes = np.abs(np.nan_to_num(matrix))
    shares = sizes / max(float(sizes.max()), 1e-12)
    colors = _hex(LOW * 0.9), _hex(HIGH * 0.85)
    for (x, y), weights, row in zip(starts, matrix.tolist(), shares.tolist(), strict=True):
        for (to_x, to_y), weight, share in zip(ends, weights, row, strict=True):
            if share > 0.04:
                between = (x + half, y), (to_x - half, to_y)
                yield Line(between, colors[weight > 0], 0.3 + 2.4 * share)


def _thumb(outputs: Float[np.ndarray, "h w"], at: tuple[float, float], size: float) -> Picture:
    """The output of a unit over the plane, from its lowest to its highest."""
    outputs = np.nan_to_num(outputs)
    lowest, highest = float(outputs.min()), float(outputs.max())
    shares = (outputs - lowest) / max(highest - lowest, 1e-9)
    return Picture(at[0] - size / 2, at[1] - size / 2, size, size, _tint(shares))


def _shares(answers: Float[np.ndarray, "h w"], is_regression: bool) -> Float[np.ndarray, "h w"]:
    """Answers as numbers from 0 to 1: probabilities, or heights between -1 and 1."""
    answers = np.clip(np.nan_to_num(answers), -30, 30)
    return np.clip((answers + 1) / 2, 0, 1) if is_regression else 1 / (1 + np.exp(-answers))


def _mixed(shares: Float[np.ndarray, "..."]) -> Float[np.ndarray, "... 3"]:
    """Colors from that of low over near-white to that of high."""
    shares = np.asarray(shares)[..., None]
    white = np.array([247.0, 247.0, 247.0])
    low, high = np.minimum(2 * shares, 1), np.maximum(2 * shares - 1, 0)
    return LOW + (white - LOW) * low + (HIGH - white) * high


def _tint(shares: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Shares as pixels."""
    return _mixed(shares).astype(np.uint8)


def _hex(color: Float[np.ndarray, "3"]) -> str:
    """A color as the web writes it."""
    return "#" + "".join(f"{round(float(part)):02x}" for part in color)


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
