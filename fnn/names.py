"""Names that modules agree on, and things looked up by name with an error that helps."""

import difflib
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, TypeVar

Thing = TypeVar("Thing")

EXAMPLES = "examples"
"""The axis over which an objective maps its model."""

SCOPE = "fnn.model"
"""The `jax.named_scope` of models and penalties: profiles and `flops` tell them by it."""


def look_up(kind: str, name: str, table: Mapping[str, Thing]) -> Thing:
    """The entry of a table, or a ValueError that names the nearest match."""
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name, table, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(table)}"
    raise ValueError(f"expected a {kind} by name, got '{name}'; {hint}")


def lazily(package: str, public: Sequence[str], homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package whose modules are imported when they are first asked for."""

    def attribute(name: str) -> Any:
        if name not in public:
            near = difflib.get_close_matches(name, public, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"try dir({package})"
            raise AttributeError(f"{package}: expected a public name, got '{name}'; {hint}")
        module = import_module(f"{package}.{homes.get(name, name)}")
        thing = getattr(module, name) if name in homes else module
        setattr(sys.modules[package], name, thing)
        return thing

    return attribute
