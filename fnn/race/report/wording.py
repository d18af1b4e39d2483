"""How the numbers and verdicts of a race are written, in its tables and its sentences alike."""

import math
from collections.abc import Sequence
from typing import Any

from fnn.race.report import statistics


def number(value: float) -> str:
    """A measured number with three significant digits.

    Args:
        value: infinity is a run that diverged or never arrived.

    Returns:
        Its text.

    Example:
        >>> print(*map(number, (0.5, 1234.5, 1.234e-7, 999.9, math.inf)))
        0.500 1234 1.23e-07 1000 ∞
    """
    if not math.isfinite(value):
        return "-∞" if value < 0 else "∞"
    if value == 0 or 999.5 <= abs(value) < 1e6:
        return f"{value + 0.0:.0f}"  # no minus before 0
    return f"{value:#.3g}".rstrip(".")


def signed(value: float) -> str:
    """A difference with three significant digits and its sign.

    Args:
        value: the difference.

    Returns:
        Its text.

    Example:
        >>> print(*map(signed, (0.5, -1.234e-7, 0.0, math.inf)))
        +0.500 -1.23e-07 0 +∞
    """
    return f"{'+' if value > 0 else ''}{number(value)}"


def setting(values: dict[str, Any]) -> str:
    """Hyperparameters in one line.

    Args:
        values: of one trial.

    Returns:
        Names and values, "defaults" where there are none.

    Example:
        >>> setting({"learning_rate": 0.0316228, "decay": 0.9})
        'learning_rate 0.0316, decay 0.9'
    """
    return ", ".join(f"{name} {value_of(value)}" for name, value in values.items()) or "defaults"


def value_of(value: Any) -> str:
    """The value of a hyperparameter: three digits of a number, and whatever else as it is."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def verdict(standing: statistics.Standing) -> str:
    """A verdict in a word or two, with the p-value of a test."""
    if standing.verdict == "lowest median":
        return "best"
    if standing.verdict in ("better", "worse", "not told apart", "differs"):
        return f"{standing.verdict} ({p_value(standing.p)})"
    return standing.verdict


def p_value(p: float) -> str:
    """A p-value with as many digits as count."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def against(compared: statistics.Comparison) -> str:
    """The baseline in words."""
    if not compared.chosen:
        return compared.baseline
    return "the best" if compared.baseline == compared.best else f"the {statistics.BEST_SOUND}"


def listed(names: Sequence[str]) -> str:
    """Names in a sentence, the first two of many."""
    if len(names) > 3:
        return f"{', '.join(names[:2])} and {len(names) - 2} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def count(n: int, noun: str) -> str:
    """A number and its noun, in the plural where it must be."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def spelled(interval: statistics.Interval) -> str:
    """A median with its interval in a sentence."""
    low, median, high = (number(float(value)) for value in interval)
    return f"{median} ({low} to {high})"


SCOPE = "The verdicts are of the settings that were chosen, on this split of the data."
"""What a test over seeds does not reach beyond."""


def wilcoxon(pairs: int) -> str:
    """The test's name; of more pairs its distribution is that of the limit."""
    return f"Wilcoxon's {'exact ' if pairs <= statistics.EXACT else ''}signed-rank test"
