"""Looking things up by name, with an error that helps."""

import difflib
from collections.abc import Mapping
from typing import TypeVar

Thing = TypeVar("Thing")


def look_up(kind: str, name: str, table: Mapping[str, Thing]) -> Thing:
    """The entry of a table.

    Args:
        kind: what the table holds, for the error.
        name: the key.
        table: the entries.

    Returns:
        `table[name]`.

    Raises:
        ValueError: if there is none; it names the nearest match, or all that there are.

    Example:
        >>> look_up("rule", "adm", {"adam": 1, "sgd": 2})
        Traceback (most recent call last):
        ValueError: expected a rule by name, got 'adm'; did you mean 'adam'?
    """
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name, table, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(table)}"
    raise ValueError(f"expected a {kind} by name, got '{name}'; {hint}")
