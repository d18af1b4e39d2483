"""Streams: batches that come one after the other, stacked for the compiled loop."""

import collections
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, PyTree

from fnn.arrays import as_arrays
from fnn.objective import ValueFunction
from fnn.training.snapshot import Position


def is_stream(data: Any) -> bool:
    """Whether data come as batches one after the other, not as a tree of arrays."""
    trees = tuple | dict | ValueFunction
    return isinstance(data, Iterable) and not isinstance(data, trees) and not hasattr(data, "shape")


def iterator_at(data: Iterable[PyTree], position: Position) -> Iterator[PyTree]:
    """The batches that come next in a fresh iterable."""
    iterator: Any = iter(data)
    if position.state is not None:
        iterator.set_state(position.state)
        return iterator
    # What an iterable gives may depend on how often it was asked; what a list gives does not.
    if not isinstance(data, Sequence) and not hasattr(iterator, "set_state"):
        for _ in range(position.passes):
            collections.deque(iterator, maxlen=0)
            iterator = iter(data)
    skipped = sum(1 for _ in itertools.islice(iterator, position.batches))
    if skipped < position.batches:
        raise ValueError(
            f"fit: expected the batches of the first call, {position.batches} of which lie behind "
            f"in this pass, got {skipped}; try a fresh iterator over the same data"
        )
    return iterator


class Batches(NamedTuple):
    """Some batches of a stream, stacked and filled up to one shape; the first `used` are real."""

    used: int
    examples: PyTree
    weights: Float[np.ndarray, "batches examples"]


_BYTES = 2**26  # of batches stacked together: little beside what a device holds
MOST = 32  # batches stacked together, at most: then a look at each stack costs next to nothing


def stacked(batches: Iterator[PyTree], examples: int = 0) -> Iterator[Batches]:
    """Stacks batches of at most so many examples, or as many as the first, to one shape."""
    batches = (as_arrays("fit", "batch", batch) for batch in batches)
    first = next(batches, None)
    if first is None:
        return
    leaves = jax.tree.leaves(first)
    n = examples or len(leaves[0])
    size = sum(np.asarray(leaf).nbytes for leaf in leaves) // max(len(leaves[0]), 1) * n
    size = min(MOST, max(1, _BYTES // max(size, 1)))
    batches = itertools.chain([first], batches)
    while group := list(itertools.islice(batches, size)):
        lengths = [_length(batch, n) for batch in group]
        used = len(group)
        group += group[-1:] * (size - used)
        lengths += lengths[-1:] * (size - used)
        filled = [jax.tree.map(lambda leaf: _fill(leaf, n), batch) for batch in group]
        rows = jax.tree.map(lambda *leaves: np.stack(leaves), *filled)
        weights = (np.arange(n) < np.array(lengths)[:, None]).astype(np.float32)
        yield Batches(used, rows, weights)


def _length(batch: PyTree, most: int) -> int:
    """The number of examples in a batch of a stream."""
    lengths = {len(leaf) for leaf in jax.tree.leaves(batch)}
    if len(lengths) != 1 or not 1 <= max(lengths) <= most:
        raise ValueError(
            f"fit: expected batches of 1 to {most} examples ({most} being the first batch's) in "
            f"all of their arrays, got arrays of {sorted(lengths)} examples"
        )
    return lengths.pop()


def _fill(leaf: Any, n: int) -> np.ndarray:
    """A leaf of n examples, filled up by its last one."""
    leaf = np.asarray(leaf)
    return leaf if len(leaf) == n else leaf[np.minimum(np.arange(n), len(leaf) - 1)]


class Reading(NamedTuple):
    """The next batches (or none, or an error), and the state of the iterator after them."""

    batches: Batches | None = None
    state: Any = None
    error: Exception | None = None


def read(stacks: Iterator[Batches], iterator: Any) -> Reading:
    """Asks for the next batches; an error waits until what came before is trained on."""
    try:
        batches = next(stacks, None)
        state = iterator.get_state() if hasattr(iterator, "set_state") else None
    except Exception as error:
        return Reading(error=error)
    return Reading(batches, state)
