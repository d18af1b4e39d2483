"""What a callback sees between two looks: views of what the compiled loop kept at its marks."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnn.training.history import History
from fnn.training.loop import Progress, Records, Stop
from fnn.training.snapshot import Snapshot

# One mark of the digits network with Adam has 29 kB. With 1 MiB of them in a segment, which stays
# in a core's cache, a callback at every step costs less than what the loop takes to write them;
# with 16 MiB it costs 20 % of the loop (benchmarks/watching.py, two busy cores).
_BYTES = 2**20
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
        fewer = math.ceil(indivisible * size / _MOST_BYTES)
        raise ValueError(
            f"fit: expected a callback that sees at most {_MOST_BYTES / 2**30:.0f} GiB of "
            f"parameters and states between two looks, got {least} times {size / 2**20:.0f} MiB; "
            f"try Callback(..., steps={fewer}) or more, or seconds=5.0"
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
    if after.progress.stopped == Stop.NON_FINITE:  # its last round was not taken
        end = int(after.history.steps[-2]) + 1 if len(after.history.steps) > 1 else 0
    numbers = range((first // marks.steps + 1) * marks.steps, end, marks.steps)
    leaves, structure = jax.tree.flatten(records.trail)
    seen = zip(numbers, zip(*map(_rows, leaves), strict=True), strict=False) if numbers else ()
    round_ends = [*map(int, after.history.steps), np.inf]
    best, lowest = before.progress.best, float(before.progress.best_loss)
    losses = after.history.validation.get("loss", ())
    is_ranked = marks.are_rounds and best is not None and len(losses)
    rounds = len(before.history.steps)
    unknown = np.float32(np.nan)
    progress = before.progress._replace(stopped=Stop.RUNNING, slope=unknown, best=None)
    for number, kept in seen:
        params, state = structure.unflatten(kept)
        while round_ends[rounds] <= number:
            rounds += 1
        if is_ranked and losses[rounds - 1] < lowest:
            best, lowest = (params, state), float(losses[rounds - 1])
        yield before._replace(
            progress=progress._replace(
                params=params, state=state, step=number, best=best if marks.are_rounds else None
            ),
            history=_until(after.history, number, rounds),
        )


def _rows(leaf: Any) -> list:
    """The entries of a leaf along its first axis; those of NumPy's are views, made in no time."""
    typed = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return list(leaf if typed else np.asarray(leaf))


def _until(history: History, steps: int, rounds: int) -> History:
    """The history of so many steps and rounds."""
    validation = {name: seen[:rounds] for name, seen in history.validation.items()}
    return History(history.value[:steps], history.steps[:rounds], validation)
