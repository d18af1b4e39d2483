"""A training at a glance: in a line of text, and as a piece of HTML for notebooks."""

from html import escape
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

_BARS = "▁▂▃▄▅▆▇█"
_WIDTH, _HEIGHT = 160, 36  # pixels of the small figure: as high as two lines of text


def course(history: Any) -> str:
    """How the value went: steps, first and last value, a sparkline, the lowest validation loss."""
    values, losses = history.value, history.validation.get("loss")
    steps = f"{len(values):,} step{'' if len(values) == 1 else 's'}"
    if not len(values):
        return steps
    went = f"{values[0]:.3g}" if len(values) == 1 else f"{values[0]:.3g} to {values[-1]:.3g}"
    text = f"{steps}: value {went}"
    if len(values) > 1:
        text += f" {sparkline(values)}"
    if losses is not None and np.isfinite(losses).any():
        best = int(np.nanargmin(np.where(np.isfinite(losses), losses, np.inf)))
        text += f", validation loss {losses[best]:.3g} at best, after step {history.steps[best]:,}"
    return text


def line(fit: Any) -> str:
    """A fit in a few lines, without its arrays: its size, its course, and why it stopped."""
    return f"<fit of {_size(fit.params)}, {course(fit.history)}.\n {fit.stopped}>"


def html(fit: Any) -> str:
    """The same in a notebook, the course as a small figure; it brings no style of its own."""
    figure = _figure(fit.history.value)
    return (
        f"<p><b>Fit</b> of {_size(fit.params)}, {escape(_without_bars(course(fit.history)))}.</p>"
        f"{figure}<p>{escape(str(fit.stopped))}</p>"
    )


def sparkline(values: Float[np.ndarray, " steps"], width: int = 20) -> str:
    """The values as a row of bars, means of neighbors, logarithmic where all are positive."""
    heights = _heights(_thinned(values, width))
    return "".join(" " if np.isnan(h) else _BARS[round(h * (len(_BARS) - 1))] for h in heights)


def _figure(values: Float[np.ndarray, " steps"]) -> str:
    """The values as a line in a picture of some hundred bytes; nothing where there is none."""
    heights = _heights(_thinned(values, _WIDTH // 2))
    seen = np.flatnonzero(np.isfinite(heights))
    if len(seen) < 2:
        return ""
    across = 2 + (_WIDTH - 4) * seen / (len(heights) - 1)
    down = 2 + (_HEIGHT - 4) * (1 - heights[seen])
    points = " ".join(f"{x:.0f},{y:.1f}" for x, y in zip(across, down, strict=True))
    return (
        f'<svg width="{_WIDTH}" height="{_HEIGHT}" role="img" aria-label="value against steps">'
        f'<polyline points="{points}" fill="none" stroke="#0072B2" stroke-width="1.5"/></svg>'
    )


def _thinned(values: Float[np.ndarray, " steps"], most: int) -> Float[np.ndarray, " few"]:
    """At most so many values, each the mean of neighbors; NaN where one of them is not finite."""
    values = np.where(np.isfinite(values), values, np.nan)
    parts = np.array_split(values, min(len(values), most)) if len(values) else []
    return np.array([part.mean() for part in parts], float)


def _heights(values: Float[np.ndarray, " few"]) -> Float[np.ndarray, " few"]:
    """The values between 0 and 1, by their logarithms where all of them are positive."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return values
    if finite.min() > 0:
        values, finite = np.log(values), np.log(finite)
    span = finite.max() - finite.min()
    return (values - finite.min()) / span if span > 0 else np.where(np.isnan(values), values, 0.5)


def _without_bars(text: str) -> str:
    """The text without its sparkline."""
    return " ".join("".join(c for c in text if c not in _BARS).replace(" ,", ",").split())


def _size(params: Any) -> str:
    """How many parameters there are, in words."""
    count = sum(int(np.size(leaf)) for leaf in jax.tree.leaves(params))
    return f"{count:,} parameter{'' if count == 1 else 's'}"
