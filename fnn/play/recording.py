"""A match as a film: the panels of the page, painted on one paper."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from fnn.play import match as matches
from fnn.play.marks import paint
from fnn.play.match import Match
from fnn.play.networks import SIDE, SQUARE
from fnn.play.panels import HEIGHT, WIDTH, panels
from fnn.play.settings import Settings
from fnn.plots import film, require_film

FPS = 10
"""Pictures in a second, as many as the page shows on two cores."""

COLORS = 64
"""Of a GIF: with 256 it is half as large again, and does not look better."""

GAP = 8.0

WIDE = (
    ("first-regions", "first-network", "second-regions", "second-network"),
    ("loss-steps", "loss-seconds", "gradient"),
    ("first-spectrum", "second-spectrum", "slice"),
)
"""The rows of a film."""


def record(file: Path, settings: Settings, seconds: float = 6.0) -> Path:
    """A match from the start, as a GIF or an MP4.

    Args:
        file: where it goes; its name ends with .gif, or with .mp4, which needs ffmpeg.
        settings: what is learned, by whom and at which pace.
        seconds: how long the film is; above 0 and at most 60.

    Returns:
        The file.

    Raises:
        ValueError: if it is too short or too long. (`plots.film` refuses other names.)
    """
    require_film("record", file)
    if not 0 < seconds <= 60:
        raise ValueError(f"record: expected from 0 to 60 seconds, got {seconds:g}; try 6")
    return film(file, _pictures(settings, max(1, round(seconds * FPS))), FPS, COLORS)


def _pictures(settings: Settings, count: int) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """The start, and so many pictures less one after it."""
    match = matches.begin(settings)
    yield painted(match)
    for _ in range(count - 1):
        match = matches.onward(match)
        yield painted(matches.with_slice(matches.with_curvature(match)))


def painted(match: Match) -> UInt8[np.ndarray, "h w 3"]:
    """All panels on one paper, of even width and height."""
    drawn, placed, top = panels(match), [], GAP
    for row in WIDE:
        width = SIDE if row is WIDE[0] else WIDTH
        step = (3 * WIDTH + 2 * GAP - width) / (len(row) - 1)
        placed += [(GAP + place * step, top, drawn[name]) for place, name in enumerate(row)]
        top += GAP + (SQUARE if row is WIDE[0] else HEIGHT)
    return paint(placed, int(3 * WIDTH + 4 * GAP), int(top) // 2 * 2)
