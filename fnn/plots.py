"""Figures: functions that draw on matplotlib axes and return them."""

from collections.abc import Mapping
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's colors, told apart with every kind of color vision, and lines told apart in print.
COLORS = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000"
STYLES = "-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1))


class Curve(NamedTuple):
    """Repeated measurements along an axis: `y[i]` is the i-th repetition."""

    x: Float[np.ndarray, " n"]
    y: Float[np.ndarray, "repetitions n"]


def curves(axes: Axes, named: Mapping[str, Curve]) -> Axes:
    """Medians as lines, with bands from the smallest to the largest repetition, on a log scale.

    Args:
        axes: where to draw.
        named: a curve for each label.

    Returns:
        The axes.
    """
    for i, (label, curve) in enumerate(named.items()):
        style = {"color": COLORS[i % len(COLORS)], "linestyle": STYLES[i % len(STYLES)]}
        low, middle, high = np.quantile(curve.y, [0, 0.5, 1], axis=0)
        axes.plot(curve.x, middle, label=label, linewidth=1.6, **style)
        axes.fill_between(curve.x, low, high, color=style["color"], alpha=0.15, linewidth=0)
    axes.set_yscale("log")
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def loss_figure(
    title: str, against_steps: Mapping[str, Curve], against_seconds: Mapping[str, Curve]
) -> Figure:
    """Training loss against steps and against seconds, side by side.

    Args:
        title: above both.
        against_steps: a curve of losses for each label.
        against_seconds: the same losses over another axis.

    Returns:
        The figure.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True, layout="constrained")
    curves(left, against_steps).set(xlabel="steps", ylabel="training loss")
    curves(right, against_seconds).set(xlabel="seconds of one run alone, compiled and warm")
    left.set_xscale("log")
    right.set_xscale("log")
    figure.suptitle(title)
    figure.legend(
        *left.get_legend_handles_labels(),
        loc="outside right center",
        frameon=False,
        title="median, band:\nall seeds",
    )
    return figure
