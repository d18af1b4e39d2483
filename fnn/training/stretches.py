"""The one loop of `fit`: segment after segment of a run, whatever its data are.

Compiled code runs a *segment*, see `segments`; between two, and only there, Python looks at what
came of it, a *stretch* of the training.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Generator, Iterator
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from fnn.training.door import door
from fnn.training.history import Columns
from fnn.training.job import Job
from fnn.training.loop import Progress, Records, Stop
from fnn.training.memory import within_memory
from fnn.training.plan import Plan, advance, look
from fnn.training.segments import (
    SECONDS,
    RoundEnd,
    Segment,
    Segments,
    looked_at,
    segments_of_arrays,
    segments_of_stream,
    sent,
)
from fnn.training.snapshot import Snapshot
from fnn.training.streams import Batches
from fnn.training.trail import passed


class Stretch(NamedTuple):
    """What was trained between two looks."""

    end: Snapshot
    passed: Iterator[Snapshot]  # what a callback is to see before the end, of NumPy's arrays
    until: Callable[[int], Snapshot] | None  # takes the same steps up to there; None of a stream


class _Turn(NamedTuple):
    """A segment, and what runs it: `run(plan)` asks the device once and does not wait for it."""

    segment: Segment
    run: Callable[[Plan], tuple[Progress, Records]]


def stretches(job: Job, here: Snapshot) -> Iterator[Stretch]:
    """Trains from a snapshot on, and yields what came of each segment.

    Where marks are kept the next segment is begun before a callback sees this one, so that the
    device and the callback work side by side. If training stops here, what was begun is dropped.

    Yields:
        The stretches, in their order.
    """
    _require_no_less(job.limits.steps, here.steps, "steps")
    if job.is_stream and job.epochs is not None:
        _require_no_less(job.epochs, here.position.passes + (here.position.batches > 0), "epochs")
    plan, columns = job.plan, Columns(here.history)
    segments = segments_of_stream(job, here) if job.is_stream else segments_of_arrays(job, here)
    is_eager = job.keeps_marks and not (job.is_stream or plan.is_shared)
    clock, seconds, ahead = time.perf_counter(), None, None
    while (segment := ahead.segment if ahead else _next(segments, here, seconds)) is not None:
        before, turn, ahead, until = here, ahead, None, None
        if isinstance(segment, RoundEnd):
            progress, records = _look(job, plan, here)
        else:
            turn, former = turn or _turn(job, segment, here.progress), plan
            if is_eager and seconds is not None and seconds < SECONDS:
                ahead = _begin_next(job, plan, turn, segments, seconds)
            plan, (progress, records) = _finish(job, plan, turn, here.progress.params)
            if ahead is not None and plan is not former:  # it was begun on what came to nothing
                ahead = _turn(job, ahead.segment, progress)
            if not job.is_stream:
                until = functools.partial(_take_until, job, plan, segment, before)
        history = columns.append(records, int(progress.step) - here.steps)
        position = segment.position
        if not int(records.rounds):  # the round goes on
            value = here.position.value + float(np.nansum(records.value))
            position = position._replace(value=value)
        here = Snapshot(progress, history, position, segment.fraction)
        if int(here.progress.stopped) != Stop.RUNNING:
            ahead = None
        yield Stretch(here, passed(before, here, records, job.marks), until)
        now = time.perf_counter()
        seconds, clock = now - clock, now


def _next(segments: Segments, here: Snapshot, seconds: float | None) -> Segment | RoundEnd | None:
    """The next segment; a training that has stopped ends its round and has no more of them."""
    # Of an array JAX would compile the comparison.
    if int(here.progress.stopped) != Stop.RUNNING:
        return RoundEnd(looked_at(here.position), 1.0) if here.position.steps else None
    return sent(segments, seconds)


def _turn(job: Job, segment: Segment, progress: Progress) -> _Turn:
    """What runs a segment from there on."""

    def run(plan: Plan) -> tuple[Progress, Records]:
        return advance(
            plan, segment.capacity, segment.data, job.validation, job.key, progress, segment.first,
            segment.limits,
        )  # fmt: skip

    return _Turn(segment, functools.cache(run))


def _begin_next(
    job: Job, plan: Plan, turn: _Turn, segments: Segments, seconds: float
) -> _Turn | None:
    """Asks the device for a segment, and for the next one, which there waits for its results."""
    try:
        progress, _ = turn.run(plan)
    except Exception:  # who waits for it meets the error again
        return None
    if not isinstance(segment := sent(segments, seconds), Segment):
        return None
    ahead = _turn(job, segment, progress)
    with contextlib.suppress(Exception):
        ahead.run(plan)
    return ahead


def _finish(
    job: Job, plan: Plan, turn: _Turn, params: PyTree
) -> tuple[Plan, tuple[Progress, Records]]:
    """Waits for a segment, run perhaps by another plan, of fewer examples at a time."""
    segment = turn.segment
    examples = segment.data.examples if isinstance(segment.data, Batches) else segment.data
    with explained(params, examples):
        return within_memory(
            turn.run,
            plan,
            lambda plan: plan.source(segment.data, job.key, segment.first),
            segment.meanwhile,
        )


def _take_until(job: Job, plan: Plan, segment: Segment, before: Snapshot, steps: int) -> Snapshot:
    """The snapshot after so many steps, where a callback stopped amid a segment of arrays."""
    # What the loop kept at its marks is less than a snapshot, from which training goes on to the
    # bit; so the steps until there are taken once more.
    limits = segment.limits._replace(steps=steps - before.steps)
    turn = _turn(job, segment._replace(limits=limits), before.progress)
    _, (progress, records) = _finish(job, plan, turn, before.progress.params)
    history = Columns(before.history).append(records, steps - before.steps)
    return Snapshot(progress, history, before.position, steps / job.limits.steps)


def _look(job: Job, plan: Plan, here: Snapshot) -> tuple[Progress, Records]:
    """Ends a round of a stream: judges the goal by the mean value and looks at the validation."""
    is_goal = here.position.value / here.position.steps <= job.limits.goal
    return look(plan, job.validation, here.progress, is_goal, job.limits.patience)


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
            f"{door()}: the step was being compiled with params {shapes[0]} and data, examples "
            f"first, {shapes[1]}; the model sees one example"
        )
        if "Reverse-mode" in str(error):
            error.add_note(
                f"{door()}: try fnn.differential.forward(model), which needs no reverse mode"
            )
        raise
