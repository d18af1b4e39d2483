"""What compiled code runs without Python: segments of a run, one after the other.

A segment is as many rounds as take a quarter of a second, or some batches of a stream.
"""

import functools
import itertools
import math
from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from fnn.training.convexity import warn_of_negative_curvature
from fnn.training.job import Job
from fnn.training.loop import Limits
from fnn.training.mistakes import require_labels_of_batches
from fnn.training.placement import placed_batches
from fnn.training.snapshot import Position, Snapshot
from fnn.training.streams import Batches, Reading, iterator_at, read, stacked

SECONDS = 0.25  # between two looks, saving included: a bar moving four times a second is smooth
_STEPS = 4096  # at most, in a segment of several rounds: the size of its records

Each = TypeVar("Each")


class Segment(NamedTuple):
    """Steps that are taken without Python: whole rounds of arrays, or some batches of a stream."""

    data: PyTree | Batches
    first: int  # the number of steps before it
    limits: Limits
    capacity: tuple[int, int, int]  # the steps, rounds and marks that the records can hold
    position: Position  # in a stream, after it
    fraction: float  # of the run, after it
    meanwhile: Callable[[], Any]  # is called while the device computes


class RoundEnd(NamedTuple):
    """A look at the training where a round of a stream ends."""

    position: Position
    fraction: float


Segments = Generator[Segment | RoundEnd, float | None]
"""Segments in turn; each is asked for with the seconds that the one before took, saving included.
Those of a run that has just begun took None."""


def sent(segments: Generator[Each, float | None], seconds: float | None) -> Each | None:
    """The next segment, or None after the last one."""
    try:
        return segments.send(seconds)
    except StopIteration:
        return None


def looked_at(position: Position) -> Position:
    """The position after a look, from which value and steps are counted anew."""
    return position._replace(value=0.0, steps=0)


# Arrays -------------------------------------------------------------------------------------------


def segments_of_arrays(job: Job, here: Snapshot) -> Generator[Segment, float | None]:
    """Segments of as many rounds as take `SECONDS`, on data that the device holds."""
    total, done, rounds = job.limits.steps, here.steps, 1
    round_steps = job.round_steps
    most, room = max(1, _STEPS // round_steps), 0
    if job.marks is not None and job.marks.room:
        most = max(1, min(most, job.marks.room * job.marks.steps // round_steps))
        room = math.ceil(most * round_steps / job.marks.steps) + 1
    while done < total:
        if job.marks is not None and not room:  # a segment ends where a callback looks
            to_mark = job.marks.steps - done % job.marks.steps
            rounds = min(rounds, math.ceil(to_mark / round_steps))
        limits = job.limits._replace(steps=total - done, rounds=rounds)
        end = min((done // round_steps + rounds) * round_steps, total)
        capacity = most * round_steps, most, room
        seconds = yield Segment(
            job.data, done, limits, capacity, here.position, end / total, lambda: None
        )
        done = end
        # The first time includes compiling, so that the next ones grow by at most 8.
        wanted = rounds * SECONDS / (seconds or SECONDS)
        rounds = int(max(1, min(wanted, 8 * rounds, most)))
        if job.plan.is_shared:  # clocks differ, but all processes run the same program
            rounds = int(multihost_utils.broadcast_one_to_all(np.int32(rounds)))


# Streams ------------------------------------------------------------------------------------------


def segments_of_stream(job: Job, here: Snapshot) -> Segments:
    """Segments of batches as they come, and the ends of rounds; an epoch is one pass."""
    at, done, part = here.position, here.steps, 0.0
    if not at.steps and (done >= job.limits.steps or at.passes == job.epochs):
        return
    iterator = iterator_at(job.data, at)
    while True:
        is_empty = not at.batches
        for segment in _segments_of_pass(job, iterator, at, done):
            yield segment
            at, part, is_empty = segment.position, segment.fraction, False
            done = segment.first + segment.limits.steps
        is_last = is_empty or done >= job.limits.steps or at.passes + 1 == job.epochs
        is_round_end = at.steps and (is_last or (at.passes + 1) % job.plan.every == 0)
        if not is_empty and done < job.limits.steps:  # it ended by itself, not by the budget
            state = at.state if iterator is job.data else None
            at = at._replace(passes=at.passes + 1, batches=0, examples=0, state=state)
        if is_round_end:
            at = looked_at(at)
            yield RoundEnd(at, 1.0 if is_last else part)
        if is_last:
            return
        iterator = iter(job.data)


def _segments_of_pass(
    job: Job, iterator: Iterator[PyTree], at: Position, done: int
) -> Iterator[Segment]:
    """The segments of a pass; the next batches are read while the device computes."""
    stacks = stacked(itertools.islice(iterator, job.limits.steps - done), at.examples)
    if job.plan.sharding is not None:
        stacks = (placed_batches(batches, job.plan.sharding) for batches in stacks)
    reading = read(stacks, iterator)
    if reading == Reading() and at == Position():
        raise ValueError("fit: expected batches of examples, got an iterable without any")
    while True:
        if reading.error is not None:
            reading.error.add_note(f"fit: this came from the batches, after {done} steps")
            raise reading.error
        batches = reading.batches
        if batches is None:
            return
        size, examples = batches.weights.shape
        require_labels_of_batches(job.plan.objective, job.progress.params, batches.examples)
        if not done:
            value_fn = job.plan.objective.on(jax.tree.map(lambda leaf: leaf[0], batches.examples))
            warn_of_negative_curvature(job.plan.rule, value_fn, job.progress.params)
        # `within_memory` calls this while the device computes, once more if the steps are retried
        # with fewer examples, and we call it below: the cache makes it one read.
        ahead = functools.cache(functools.partial(read, stacks, iterator))
        # No round ends here, at which the goal would be judged, over all of its batches.
        limits = Limits(steps=batches.used, rounds=1, mark=job.limits.mark)
        first, done = done, done + batches.used
        at = at._replace(
            batches=at.batches + batches.used,
            examples=examples,
            steps=at.steps + batches.used,
            state=reading.state,
        )
        part = done / job.limits.steps if job.epochs is None else at.passes / job.epochs
        capacity = size, 1, 0 if job.marks is None else math.ceil(size / job.marks.steps) + 1
        yield Segment(batches, first, limits, capacity, at, part, ahead)
        reading = ahead()
