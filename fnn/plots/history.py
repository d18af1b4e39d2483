"""How a training went, on matplotlib's axes."""

from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from fnn.plots.curves import plain, stroke
from fnn.plots.style import COLORS, style

_BESIDE = 400  # steps up to which values are a line of full strength; more of them are a faint band


def history(axes: Axes, fit: Any) -> Axes:
    """The value at each step of a training, and the validation loss after each round.

    Where there are rounds of several steps, their means are drawn over the values. The lowest
    validation loss is marked, or else the lowest value; and where something was not finite, there
    is a cross at the upper edge.

    Args:
        axes: where to draw.
        fit: a `Fit`, finished or in the hands of a callback, or its `history`.

    Returns:
        The axes: logarithmic where all that is finite is positive; the legend is yours to place.

    Raises:
        TypeError: if there is no history in what came.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> from matplotlib.figure import Figure
        >>> import fnn
        >>> fitted = fnn.fit(optax.sgd(0.1), lambda w: (w - 1.0) ** 2, jnp.zeros(()), steps=20)
        >>> axes = history(Figure().subplots(), fitted)
        >>> axes.get_yscale(), len(axes.lines[0].get_xdata())
        ('log', 20)
    """
    seen = getattr(fit, "history", fit)
    if not all(hasattr(seen, name) for name in ("value", "steps", "validation")):
        raise TypeError(
            f"plots.history: expected a Fit or its history, got {type(fit).__name__}; try what "
            "fnn.fit returns"
        )
    values, ends = np.asarray(seen.value, float), np.asarray(seen.steps)
    steps = 1 + np.arange(len(values))
    losses = np.asarray(seen.validation.get("loss", ()), float)
    lines = {"value": (steps, values)}
    if 1 < len(ends) < len(values):
        lines["mean over a round"] = ends, _means(values, ends)
    if len(losses):
        lines["validation loss"] = ends[: len(losses)], losses
    for i, (label, (x, y)) in enumerate(lines.items()):
        faint = i == 0 and ("mean over a round" in lines or len(y) > _BESIDE)
        marker = {"marker": "o", "markersize": 4} if np.isfinite(y).sum() == 1 else {}
        look = {"linewidth": 0.8, "alpha": 0.45} if faint else {"linewidth": 1.6}
        shown = np.where(np.isfinite(y), y, np.nan)
        axes.plot(x, shown, label=label, **stroke(style(i)), **look, **marker)
    finite = [y[np.isfinite(y)] for _, y in lines.values()]
    if all(len(y) == 0 or y.min() > 0 for y in finite) and any(map(len, finite)):
        axes.set_yscale("log")
    _mark_best(axes, *lines["validation loss" if np.isfinite(losses).any() else "value"])
    _mark_lost(axes, lines.values())
    axes.set(xlabel="steps", ylabel="value")
    return plain(axes)


def _means(values: Float[np.ndarray, " steps"], ends: np.ndarray) -> Float[np.ndarray, " rounds"]:
    """The mean value of each round."""
    return np.array([part.mean() for part in np.split(values, ends)[: len(ends)]])


def _mark_best(axes: Axes, x: np.ndarray, y: np.ndarray) -> None:
    """A ring around the lowest, which the legend tells in numbers."""
    if not np.isfinite(y).any():
        return
    best = int(np.nanargmin(np.where(np.isfinite(y), y, np.nan)))
    label = f"lowest: {y[best]:.3g} after step {x[best]:,}"
    ring = {"markersize": 8, "markerfacecolor": "none", "color": "black", "linestyle": "none"}
    axes.plot(x[best], y[best], "o", label=label, **ring)


def _mark_lost(axes: Axes, lines: Any) -> None:
    """A cross at the upper edge where something was not finite."""
    lost = np.unique(np.concatenate([x[~np.isfinite(y)] for x, y in lines]))
    if len(lost):
        axes.plot(
            lost, np.ones(len(lost)), "x", color=COLORS[1], markersize=6, clip_on=False,
            transform=axes.get_xaxis_transform(), label="not finite",
        )  # fmt: skip
