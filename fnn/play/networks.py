"""Pictures of a network: what it answers all over the plane, its units and its weights."""

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float, UInt8

from fnn.play.marks import FAINT, INK, PAPER, Box, Dots, Line, Mark, Panel, Picture, Words
from fnn.play.match import Match, Runner
from fnn.plots import COLORS

SIDE, SQUARE = 240.0, 236.0
"""Of a picture of a network, four of which stand side by side."""

RULES = COLORS[0], COLORS[1]
"""The colors of the first and of the second rule."""

LOW, HIGH = np.array([230.0, 159.0, 0.0]), np.array([86.0, 130.0, 200.0])
"""The colors of class 0 and low heights, and of class 1 and high ones."""

_HEAD = 38.0


def summary(match: Match, runner: Runner) -> str:
    """Where a rule stands, in one line."""
    row = runner.rows[-1]
    judged = f"{row.test:.2g}" if match.settings.is_regression else f"{runner.look.right:.0%} right"
    return f"step {row.step}, {_seconds(row.seconds)}, loss {row.loss:.2g}, test {judged}"


def _seconds(seconds: float) -> str:
    """Seconds with a unit that suits them."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


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
    heads = [("inputs", 28.0), ("output", float(across[-1]))]
    if columns > 2:
        heads.append(("hidden units", float(np.mean(across[1:-1]))))
    for head, middle in heads:
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
