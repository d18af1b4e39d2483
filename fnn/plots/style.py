"""The look of the i-th label: its color, its dashes, its marker.

Labels keep their looks from figure to figure if they come in the same order.
"""

from collections.abc import Iterable
from typing import NamedTuple

COLORS = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7A7A7A"
"""These are Okabe and Ito's, which every kind of color vision tells apart. A gray that shows on
black and on white stands for their black, and their yellow is left out: white paper hides it."""

DASHES = (), (4, 1.5), (4, 1.5, 1, 1.5), (1, 1.5), (10, 3), (2.2, 1.2), (5, 1.5, 1, 1.5, 1, 1.5)
"""Strokes and gaps are in widths of the line; with them lines are told apart in gray print too."""

MARKERS = "o", "s", "^", "D", "v", "P", "X"
"""There are as many as colors, so that a color and its first marker always go together."""


class Style(NamedTuple):
    """How one label is drawn."""

    color: str
    dash: tuple[float, ...]
    marker: str


def style(i: int) -> Style:
    """The look of the i-th label; no two have the same color and the same dashes.

    Args:
        i: the label's number, counted from 0.

    Returns:
        A color, the dashes of its lines, and its marker.

    Example:
        >>> style(0)
        Style(color='#0072B2', dash=(), marker='o')
        >>> len({style(i)[:2] for i in range(200)})
        200
    """
    color, turn = i % len(COLORS), i // len(COLORS)
    look = (color + turn) % len(DASHES)
    further = turn - len(DASHES) + 1  # every color has had all dashes: long ones, and dots
    dash = DASHES[look] if further < 1 else (10, 1.5, *(1, 1.5) * further)
    return Style(COLORS[color], dash, MARKERS[look])


def styles(labels: Iterable[str]) -> dict[str, Style]:
    """The look of each label by its place.

    Args:
        labels: in the order that all figures share.

    Returns:
        A style for each.

    Example:
        >>> styles(["adam", "sgd"])["sgd"].color
        '#D55E00'
    """
    return {label: style(i) for i, label in enumerate(labels)}
