"""Bytes that the devices of a mesh send each other, read from a compiled program.

What XLA's partitioner made of a function on several devices stands in the text of the compiled
program, `compiled.as_text()`: the collectives, with the shapes of what they move.
"""

import math
import re
from typing import NamedTuple

_KINDS = "all-gather", "all-reduce", "all-to-all", "collective-broadcast", "collective-permute"
_KINDS += ("ragged-all-to-all", "reduce-scatter")
_BITS = {"pred": 8, "token": 0, "c64": 64, "c128": 128}


class Collective(NamedTuple):
    """One collective operation of a compiled program.

    Attributes:
        kind: `all-reduce`, `all-gather` and so on.
        bytes: of the whole array, in one device's memory: what an `all-reduce` sums, what an
            `all-gather` returns, what a `reduce-scatter` takes.
        looped: whether it is in a loop, where it happens in every trip.
    """

    kind: str
    bytes: int
    looped: bool


def collectives(text: str) -> list[Collective]:
    """The collective operations of a compiled program, each counted once.

    Args:
        text: of the compiled program, `jax.jit(fn).lower(*args).compile().as_text()`.

    Returns:
        The operations in the order of the text.

    Example:
        >>> line = "  %all-reduce.1 = f32[3,2]{1,0} all-reduce(%dot), replica_groups={{0,1}}"
        >>> collectives(line)
        [Collective(kind='all-reduce', bytes=24, looped=False)]
    """
    found, looped = [], _looped(text)
    for name, body in _computations(text):
        for line in body:
            operation = _OPERATION.match(line)
            if operation and operation["kind"] in _KINDS:
                found.append(Collective(operation["kind"], _bytes(operation, line), name in looped))
    return found


_OPERATION = re.compile(
    r"\s*(?:ROOT )?%?[\w.-]+ = (?P<shape>\(.*?\)|\S+) (?P<kind>[a-z-]+?)(?P<start>-start)?\("
)
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]")
_GROUPS = re.compile(r"replica_groups=(?:\{\{([\d,]+)\}|\[\d+,(\d+)\])")
_CALLED = re.compile(
    r"(?:body|condition|to_apply|calls|true_computation|false_computation)=%?([\w.-]+)"
    r"|branch_computations=\{([^}]*)\}"
)


def _bytes(operation: re.Match, line: str) -> int:
    sizes = [_size(dtype, shape) for dtype, shape in _ARRAY.findall(operation["shape"])]
    if operation["start"] and operation["kind"] in ("all-gather", "collective-permute"):
        arrays = [
            size for size in sizes if size > 4
        ]  # without contexts; then what goes in, and out
        sizes = arrays[len(arrays) // 2 :]
    return sum(sizes) * (_group(line) if operation["kind"] == "reduce-scatter" else 1)


def _size(dtype: str, shape: str) -> int:
    bits = _BITS.get(dtype) or int(re.sub(r"^\D+(\d+).*", r"\1", dtype) or 0)
    return math.prod(map(int, filter(None, shape.split(",")))) * bits // 8


def _group(line: str) -> int:
    groups = _GROUPS.search(line)
    if groups is None:
        return 1
    listed, counted = groups.groups()
    return len(listed.split(",")) if listed else int(counted)


def _computations(text: str) -> list[tuple[str, list[str]]]:
    """Names and lines of the functions that a program is made of."""
    parts: list[tuple[str, list[str]]] = [("", [])]
    for line in text.splitlines():
        opening = re.match(r"(?:ENTRY )?%?([\w.-]+) .*\{\s*$", line)
        if opening and not line.startswith(" "):
            parts.append((opening[1], []))
        else:
            parts[-1][1].append(line)
    return parts


def _looped(text: str) -> set[str]:
    """The functions that loops call."""
    calls: dict[str, set[str]] = {}
    waiting: list[str] = []
    for name, body in _computations(text):
        calls[name] = set()
        for line in body:
            names = {
                n.strip(" %") for pair in _CALLED.findall(line) for n in ",".join(pair).split(",")
            }
            names.discard("")
            calls[name] |= names
            if " while(" in line:
                waiting += names
    reached: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += calls.get(name, ())
    return reached
