"""The one loop of `fit`: segment after segment of a run, whatever its data are.

Compiled code runs a *segment*, as many rounds as take a quarter of a second or some batches of a
stream; between segments, and only there, Python looks at the result.
"""

import contextlib
import functools
import itertools
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from fnn.training.convexity import warn_of_negative_curvature
from fnn.training.history import Columns
from fnn.training.job import Job
from fnn.training.loop import Limits, Progress, Records, Stop
from fnn.training.memory import within_memory
from fnn.training.mistakes import require_labels_of_batches
from fnn.training.placement import placed_batches
from fnn.training.plan import Plan, advance, look
from fnn.training.snapshot import Position, Snapshot
from fnn.training.streams import Batches, Reading, iterator_at, read, stacked

_SECONDS = 0.25  # between two looks, saving included: a bar moving four times a second is smooth
_STEPS = 4096  # at most, in a segment of several rounds: the size of its records


class Segment(NamedTuple):
    """Steps that are taken without Python: whole rounds of arrays, or some batches of a stream."""

    data: PyTree | Batches
    first: int  # the number of steps before it
    limits: Limits
    capacity: tuple[int, int]  # the steps and the rounds that the records can hold
    position: Position  # in a stream, after it
    fraction: float  # of the run, after it
    meanwhile: Callable[[], Any]  # is called while the device computes


class RoundEnd(NamedTuple):
    """A look at the training where a round of a stream ends."""

    position: Position
    fraction: float


def snapshots(job: Job, here: Snapshot) -> Iterator[Snapshot]:
    """Trains from a snapshot on, and yields the next one after each segment."""
    _require_no_less(job.limits.steps, here.steps, "steps")
    if job.is_stream and job.epochs is not None:
        _require_no_less(job.epochs, here.position.passes + (here.position.batches > 0), "epochs")
    plan, columns = job.plan, Columns(here.history)
    segments = _segments_of_stream(job, here) if job.is_stream else segments_of_arrays(job, here)
    while (segment := _next(segments, here)) is not None:
        if isinstance(segment, RoundEnd):
            progress, records = _look(job, plan, here)
        else:
            plan, (progress, records) = _advance(job, plan, segment, here.progress)
        history = columns.append(records, int(progress.step) - here.steps)
        position = segment.position
        if not int(records.rounds):  # the round goes on
            value = here.position.value + float(np.nansum(records.value))
            position = position._replace(value=value)
        here = Snapshot(progress, history, position, segment.fraction)
        yield here


def _next(segments: Iterator[Segment | RoundEnd], here: Snapshot) -> Segment | RoundEnd | None:
    """The next segment; a training that has stopped ends its round and has no more of them."""
    if here.progress.stopped == Stop.RUNNING:
        return next(segments, None)
    return RoundEnd(_looked_at(here.position), 1.0) if here.position.steps else None


def _looked_at(position: Position) -> Position:
    """The position after a look, from which value and steps are counted anew."""
    return position._replace(value=0.0, steps=0)


def _advance(
    job: Job, plan: Plan, segment: Segment, progress: Progress
) -> tuple[Plan, tuple[Progress, Records]]:
    """Takes the steps of a segment, perhaps by another plan, of fewer examples at a time."""

    def run(plan: Plan) -> tuple[Progress, Records]:
        return advance(
            plan, segment.capacity, segment.data, job.validation, job.key, progress, segment.first,
            segment.limits,
        )  # fmt: skip

    examples = segment.data.examples if isinstance(segment.data, Batches) else segment.data
    with explained(progress.params, examples):
        return within_memory(
            run,
            plan,
            lambda plan: plan.source(segment.data, job.key, segment.first),
            segment.meanwhile,
        )


def _look(job: Job, plan: Plan, here: Snapshot) -> tuple[Progress, Records]:
    """Ends a round of a stream: judges the goal by the mean value and looks at the validation."""
    is_goal = here.position.value / here.position.steps <= job.limits.goal
    return look(plan, job.validation, here.progress, is_goal, job.limits.patience)


# Arrays -------------------------------------------------------------------------------------------


def segments_of_arrays(job: Job, here: Snapshot) -> Iterator[Segment]:
    """Segments of as many rounds as take `_SECONDS`, on data that the device holds."""
    total, done, rounds = job.limits.steps, here.steps, 1
    round_steps = job.plan.every * job.plan.source(job.data, job.key, done).steps
    most = max(1, min(_STEPS // round_steps, job.limits.rounds))
    while done < total:
        begin = time.perf_counter()
        limits = job.limits._replace(steps=total - done, rounds=rounds)
        end = min((done // round_steps + rounds) * round_steps, total)
        capacity = most * round_steps, most
        yield Segment(job.data, done, limits, capacity, here.position, end / total, lambda: None)
        done = end
        # We are asked again when the segment was run and saved. The first time includes compiling,
        # so that the next ones grow by at most 8.
        wanted = rounds * _SECONDS / (time.perf_counter() - begin)
        rounds = int(max(1, min(wanted, 8 * rounds, most)))
        if job.plan.is_shared:  # clocks differ, but all processes run the same program
            rounds = int(multihost_utils.broadcast_one_to_all(np.int32(rounds)))


# Streams ------------------------------------------------------------------------------------------


def _segments_of_stream(job: Job, here: Snapshot) -> Iterator[Segment | RoundEnd]:
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
            at = _looked_at(at)
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
        limits = Limits(steps=batches.used, rounds=1)
        first, done = done, done + batches.used
        at = at._replace(
            batches=at.batches + batches.used,
            examples=examples,
            steps=at.steps + batches.used,
            state=reading.state,
        )
        part = done / job.limits.steps if job.epochs is None else at.passes / job.epochs
        yield Segment(batches, first, limits, (size, 1), at, part, ahead)
        reading = ahead()


def _require_no_less(asked: int, done: int, unit: str) -> None:
    """Raises if a resumed training has come further than is asked for."""
    if asked < done:
        raise ValueError(
            f"fit: expected {unit} to be at least {done}, which is how far the training in the "
            f"folder has come, got {asked}; try a new folder"
        )


@contextlib.contextmanager
def explained(params: PyTree, examples: PyTree) -> Generator[None]:
    """Adds to an error of the model or the loss what they were given."""
    try:
        yield
    except (TypeError, ValueError) as error:
        shapes = jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", (params, examples))
        error.add_note(
            f"fit: the step was being compiled with params {shapes[0]} and data, examples first, "
            f"{shapes[1]}; the model sees one example"
        )
        if "Reverse-mode" in str(error):
            error.add_note("fit: try fnn.differential.forward(model), which needs no reverse mode")
        raise
