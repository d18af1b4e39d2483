"""The spaces of hyperparameters: from what a search takes the values that it tries.

    {"learning_rate": (1e-3, 1e-1), "warm_up": Linear(0, 0.3), "history": Whole(2, 20)}

Numbers of a `Log` or `Linear` range are traced, so that one compiled program serves all of them.
Those of `Whole` and `OneOf` are static: a rule is made with Python's own values, which may decide
on shapes and branches, and each combination of them that is tried has a program of its own.

A search goes beyond the ends of a `Log` range where the best value is found there. The ends of
other ranges are kept: a share is at most 1, and a count at least 1.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from fnn import names

Value = float | int | str | bool | None


class Log(NamedTuple):
    """Numbers above 0 on a logarithmic scale, which a search may extend by decades.

    A plain pair `(low, high)` is the same.
    """

    low: float
    high: float


class Linear(NamedTuple):
    """Numbers on a linear scale, from one end to the other and no further."""

    low: float
    high: float


class Whole(NamedTuple):
    """Whole numbers, both ends included; static."""

    low: int
    high: int


class OneOf(NamedTuple):
    """A choice among texts, numbers, True, False and None; static."""

    choices: tuple[Value, ...]


Range = Log | Linear | Whole | OneOf
Space = Mapping[str, Range | tuple[float, float]]


def is_static(given: Range | tuple[float, float]) -> bool:
    """Whether a program serves one value of a range only."""
    return isinstance(given, Whole | OneOf)


def size(given: Range | tuple[float, float]) -> float:
    """The number of values in a range; infinity for a continuous one."""
    match range_of(given):
        case Whole(low, high):
            return high - low + 1
        case OneOf(choices):
            return len(choices)
    return math.inf


def value_at(given: Range | tuple[float, float], place: float) -> Value:
    """The value at a place of a range, which goes from 0 to 1, and further where it is `Log`.

    Args:
        given: the range.
        place: the place.

    Returns:
        The value, of the range's own kind.

    Example:
        >>> value_at((1e-3, 1e-1), 0.5), value_at(Whole(1, 4), 0.5), value_at(OneOf((7, 8)), 0.1)
        (0.01, 3, 7)
    """
    match range_of(given):
        case Log(low, high):
            return float(10 ** (math.log10(low) + place * math.log10(high / low)))
        case Linear(low, high):
            return float(low + place * (high - low))
        case Whole(low, high):
            return low + _bin(place, high - low + 1)
        case OneOf(choices):
            return choices[_bin(place, len(choices))]


def place_of(given: Range | tuple[float, float], value: Any) -> float:
    """The place of a value, such that `value_at` gives it back; NaN where it has none.

    Args:
        given: the range.
        value: the value, which need not lie in the range.

    Returns:
        The place: outside of 0 and 1 for a number beyond the ends, NaN for a number on no
        logarithmic scale and for what is no choice.

    Example:
        >>> place_of(Log(1e-3, 1e-1), 1.0), place_of(Whole(1, 4), 3), place_of(OneOf((7, 8)), 9)
        (1.5, 0.625, nan)
    """
    match range_of(given):
        case Log(low, high):
            return math.log10(value / low) / math.log10(high / low) if value > 0 else math.nan
        case Linear(low, high):
            return (value - low) / (high - low)
        case Whole(low, high):
            return (value - low + 0.5) / (high - low + 1)
        case OneOf(choices):
            found = [i for i, choice in enumerate(choices) if _same(choice, value)]
            return (found[0] + 0.5) / len(choices) if found else math.nan


def require_space(rule: str, space: Space, defaults: Mapping[str, Value]) -> None:
    """Raises a ValueError for a range without values, and for defaults that nothing takes."""
    for name, given in space.items():
        about = f"race: expected the {name} of {rule} to be"
        if type(given) in (tuple, list) and len(given) != 2:
            raise ValueError(f"{about} (low, high), got {given}; try (0.001, 0.1)")
        match range_of(given):
            case Log() | Linear() | Whole() as ends:
                _require_ends(about, ends)
            case OneOf(choices):
                _require_choices(about, choices)
            case _:
                raise ValueError(
                    f"{about} (low, high), Linear, Whole or OneOf, got {given!r}; try (0.001, 0.1)"
                )
    for name, value in defaults.items():
        given = range_of(names.look_up(f"hyperparameter of {rule}", name, space))
        if not (_is_plain(value) if isinstance(given, OneOf) else _is_number(value, given)):
            kind = "a number" if not is_static(given) else "a value such as " + repr(given[0])
            raise ValueError(
                f"race: expected the default {name} of {rule} to be {kind}, got {value!r}; try to "
                "leave it out of the defaults"
            )


def _require_ends(about: str, ends: Log | Linear | Whole) -> None:
    """Raises unless both ends are numbers, in order, and above 0 on a logarithmic scale."""
    low, high = ends
    if not (_is_number(low, ends) and _is_number(high, ends)):
        kind, example = "finite numbers", "(0.001, 0.1)"
        if isinstance(ends, Whole):
            kind, example = "whole numbers", "Whole(1, 10)"
        raise ValueError(f"{about} between {kind}, got {low!r} and {high!r}; try {example}")
    if low > high or (low == high and not isinstance(ends, Whole)):
        raise ValueError(
            f"{about} from a low to a high end, got {low:g} and {high:g}; try "
            + (f"({high:g}, {low:g})" if low > high else "the value as a constant of the rule")
        )
    if isinstance(ends, Log) and low <= 0:
        raise ValueError(
            f"{about} above 0 on a logarithmic scale, got {low:g} to {high:g}; try "
            f"Linear({low:g}, {high:g}), or a low end above 0"
        )


def _require_choices(about: str, choices: Any) -> None:
    """Raises unless there are choices, all of which can be written down."""
    if isinstance(choices, str) or not choices:
        raise ValueError(f"{about} one of several, got {choices!r}; try OneOf(('first', 'second'))")
    for choice in choices:
        if not _is_plain(choice):
            raise ValueError(
                f"{about} one of texts, numbers, True, False and None, which can be written down, "
                f"got {choice!r}; try its name, and look it up when the rule is made"
            )


def range_of(given: Any) -> Range:
    """The range, of which a plain pair is a `Log`."""
    return Log(*given) if type(given) in (tuple, list) else given


def _bin(place: float, count: int) -> int:
    """The number of the equal part of 0 to 1 in which a place lies."""
    return min(max(int(place * count), 0), count - 1)


def _same(choice: Any, value: Any) -> bool:
    """Whether two choices are one: True is not 1."""
    return type(choice) is type(value) and choice == value


def _is_plain(value: Any) -> bool:
    """Whether a value is written to JSON and read back as the same one."""
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or type(value) in (bool, int, str)


def _is_number(value: Any, given: Range) -> bool:
    """Whether a value is of a kind with the numbers of a range."""
    kinds = int if isinstance(given, Whole) else int | float
    return isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
