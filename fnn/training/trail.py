"""What a callback sees between two looks: views of what the compiled loop kept at its marks."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from fnn.training.history import History
from fnn.training.loop import Progress, Records, Stop
from fnn.training.snapshot import Snapshot

# One mark of the digits network with Adam has 29 kB. A MiB of them stays in a core's cache, and is
# enough for segments of a millisecond, begun one ahead (benchmarks/watching.py).
_BYTES = 2**20
_UNKNOWN = np.float32(np.nan)
_MOST_BYTES = 2**30  # of marks that a segment cannot do without: as much as other budgets


class Marks(NamedTuple):
    """How often the loop keeps what a callback is to see, and for how many marks there is room."""

    steps: int  # from one mark to the next
    are_rounds: bool  # whether each round ends at a mark
    room: int  # 0 where segments end at each mark, and nothing needs to be kept


def marks_of(steps: int | None, indivisible: int, is_stream: bool, progress: Progress) -> Marks:
    """The marks in segments of whole rounds, or of batches that a stream takes together."""
    # Where two marks are more than `_BYTES` a step takes so long that segments can end at each of
    # them, if that is where rounds end; marks within a round must be kept.
    are_rounds, steps = steps is None, steps or indivisible
    size = sum(
        leaf.size * leaf.dtype.itemsize
        for leaf in jax.tree.leaves((progress.params, progress.state))
    )
    least, fitting = math.ceil(indivisible / steps), _BYTES // max(size, 1)
    if fitting < 2 and steps % indivisible == 0 and not is_stream:
        return Marks(steps, are_rounds, 0)
    if least * size > _MOST_BYTES:
        often = math.ceil(least * size / _MOST_BYTES) * steps
        rounds = math.ceil(often / indivisible) * indivisible  # where segments end, all fits
        often = rounds if size > _MOST_BYTES or often >= indivisible else often
        other = "" if is_stream and size > _MOST_BYTES else f"Callback(..., steps={often}), or "
        raise ValueError(
            f"fit: expected a callback that sees at most {_MOST_BYTES / 2**30:.0f} GiB of "
            f"parameters and states between two looks, got {least} times {size / 2**20:.0f} MiB; "
            f"try {other}seconds=5.0"
        )
    return Marks(steps, are_rounds, max(least, fitting))


def passed(
    before: Snapshot, after: Snapshot, records: Records, marks: Marks | None
) -> Iterator[Snapshot]:
    """The snapshots at the marks between two others in their order, of NumPy's arrays.

    Where the marks are the ends of rounds, the best parameters are followed from one to the next;
    elsewhere nothing is known of them.

    Yields:
        A snapshot for each mark.
    """
    if records.trail is None or marks is None:
        return
    first, end = before.steps, after.steps
    if int(after.progress.stopped) == Stop.NON_FINITE:  # its last round was not taken
        end = int(after.history.steps[-2]) + 1 if len(after.history.steps) > 1 else 0
    numbers = range((first // marks.steps + 1) * marks.steps, end, marks.steps)
    history, losses = after.history, after.history.validation.get("loss", ())
    best, lowest = before.progress.best, float(before.progress.best_loss)
    is_ranked = marks.are_rounds and best is not None and len(losses)
    best = best if marks.are_rounds else None
    round_ends, rounds = [*map(int, history.steps), np.inf], len(before.history.steps)
    leaves, structure = jax.tree.flatten((before.progress.params, before.progress.state))
    rows = zip(*_rows(records.trail, leaves), strict=True) if numbers else ()
    progress = before.progress._replace(slope=_UNKNOWN)
    number: Any
    running: Any = Stop.RUNNING
    for number, row in zip(numbers, rows, strict=False):
        params, state = structure.unflatten(row)
        while round_ends[rounds] <= number:
            rounds += 1
        if is_ranked and losses[rounds - 1] < lowest:
            best, lowest = (params, state), float(losses[rounds - 1])
        here = Progress(params, state, number, running, best, *progress[5:])
        seen = _until(history, number, rounds)
        yield Snapshot(here, seen, before.position, before.fraction)


def _rows(trail: list[Array], leaves: list[Array]) -> list[list[Any]]:
    """For each leaf what it was at each mark: views of the rows, made in no time."""
    used, listed = {leaf.dtype: 0 for leaf in leaves}, []
    arrays = dict(zip(used, map(_of_numpy, trail), strict=True))
    for leaf in leaves:
        array, first = arrays[leaf.dtype], used[leaf.dtype]
        used[leaf.dtype] = last = first + leaf.size
        listed.append(list(array[:, first:last].reshape(len(array), *leaf.shape)))
    return listed


def _of_numpy(array: Array) -> Any:
    """The same as an array of NumPy, unless it holds keys."""
    return array if jnp.issubdtype(array.dtype, jax.dtypes.prng_key) else np.asarray(array)


def _until(history: History, steps: int, rounds: int) -> History:
    """The history of so many steps and rounds."""
    validation = {name: seen[:rounds] for name, seen in history.validation.items()}
    return History(history.value[:steps], history.steps[:rounds], validation)
