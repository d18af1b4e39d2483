"""Names that modules agree on, and things looked up by name with an error that helps."""

import difflib
import runpy
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

Thing = TypeVar("Thing")

EXAMPLES = "examples"
"""The axis over which an objective maps its model."""

SCOPE = "fnn.model"
"""The `jax.named_scope` of models and penalties: profiles and `flops` tell them by it."""


def name_of(fn: Any) -> str:
    """What a function is called, without where it is defined; its type if it has no name."""
    name = getattr(fn, "__qualname__", type(fn).__name__)
    return name.replace(".<locals>", "").lstrip("_")


def look_up(kind: str, name: str, table: Mapping[str, Thing]) -> Thing:
    """The entry of a table, or a ValueError that names the nearest match."""
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name, table, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(table)}"
    article = "an" if kind[0] in "aeiou" else "a"
    raise ValueError(f"expected {article} {kind} by name, got '{name}'; {hint}")


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


def defined_in(path: Path, what: str) -> dict[str, Any]:
    """What a Python file of yours defines, by name; a ValueError if there is no such file."""
    if not path.is_file():
        raise ValueError(f"{path}: expected a Python file that defines {what}, got no file")
    return naming_the_line(path, lambda: runpy.run_path(str(path)))


def naming_the_line(path: Path, code: Callable[[], Thing]) -> Thing:
    """What code of a file returns; what it raises names the last line that took part."""
    try:
        return code()
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(path)]
        if isinstance(error, SyntaxError) and error.filename == str(path):
            lines.append(error.lineno)
        at = f", line {lines[-1]}" if lines else ""
        raise ValueError(f"{path}{at}: {type(error).__name__}: {error}") from error
