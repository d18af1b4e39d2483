"""Lanes: the compiled loop mapped over the members of `fits`.

A rule whose numbers differ from member to member carries them in its state, so that one rule stands
for all of them.
"""

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

from fnn import devices
from fnn.progress import shown
from fnn.training import loop
from fnn.training.history import Columns, History
from fnn.training.job import Job
from fnn.training.loop import Progress, Records, Stop
from fnn.training.members import Members
from fnn.training.memory import within_memory
from fnn.training.plan import Plan, rounds
from fnn.training.segments import Segment, segments_of_arrays, sent
from fnn.training.snapshot import Position, Snapshot
from fnn.training.stretches import explained


class Carried(NamedTuple):
    """The state of a rule that is made anew of its hyperparameters in every step."""

    hyperparameters: PyTree
    state: PyTree


def carried(make: Callable[[Any], Any], hyperparameters: PyTree) -> Any:
    """A rule that begins with these hyperparameters, and goes on with those in its state."""

    def init(params: PyTree) -> Carried:
        return Carried(hyperparameters, make(hyperparameters).init(params))

    def update(updates: PyTree, state: PyTree, params: PyTree = None, **extra_args: Any):
        own = optax.with_extra_args_support(make(state.hyperparameters))
        updates, inner = own.update(updates, state.state, params, **extra_args)
        return updates, Carried(state.hyperparameters, inner)

    return optax.GradientTransformationExtraArgs(init, update)


def template(make: Any, hyperparameters: PyTree) -> optax.GradientTransformation:
    """The rule of hyperparameters like these, one object for all of their values."""
    if not callable(make):
        raise TypeError(
            "fits: expected a function from a member's hyperparameters to its rule, got "
            f"{type(make).__name__}; try rules.adam, or lambda rate: rules.adam(rate)"
        )
    leaves, structure = jax.tree.flatten(hyperparameters)
    shapes = tuple((jnp.shape(leaf)[1:], jnp.result_type(leaf)) for leaf in leaves)
    return _template_of(make, structure, shapes)


@functools.lru_cache(maxsize=256)
def _template_of(make: Any, structure: Any, shapes: tuple) -> optax.GradientTransformation:
    return carried(make, structure.unflatten(np.ones(*shape) for shape in shapes))


def carried_state(member: Mapping[str, PyTree]) -> Carried | None:
    """The state with which a member goes on, if there is one."""
    if member["state"] is None:
        return None
    return Carried(member["hyperparameters"], member["state"])


# The program --------------------------------------------------------------------------------------


def lanes_of(given: Members, job: Job, make: Any) -> Members:
    """What the program is mapped over: the members at their starts, their data and keys."""
    trees = given.trees
    progress = _begin(
        job.plan.rule,
        make,
        job.progress.best is not None,
        trees["hyperparameters"],
        trees["params"],
        trees["state"],
    )
    return _with_examples(given, job, progress)


def _with_examples(given: Members, job: Job, progress: Progress) -> Members:
    """The members with such a progress, and with the examples of the job where all share them."""
    axes = given.axes_by_name
    trees: dict[str, PyTree] = {"data": job.data, "validation": job.validation}
    for name in trees:
        if 0 in axes[name]:
            trees[name] = given.trees[name]
        else:
            axes[name] = (None,) * len(jax.tree.leaves(trees[name]))
    trees |= {"key": given.trees["key"], "progress": progress}
    axes["progress"] = (0,) * len(jax.tree.leaves(progress))
    return Members(trees, tuple(axis for name in sorted(trees) for axis in axes[name]))


@functools.partial(devices.jit, static_argnames=("rule", "make", "keep_best"))
def _begin(rule, make, keep_best, hyperparameters, params, state):
    """The carry of every member before its first step."""

    def begin(hyperparameters, params, state):
        own = rule if make is None else carried(make, hyperparameters)
        progress = loop.start(own, params, keep_best=keep_best)
        if state is None:
            return progress
        if make is not None:
            state = Carried(hyperparameters, state)
        best = (params, state) if keep_best else None
        return progress._replace(state=state, best=best)

    return jax.vmap(begin)(hyperparameters, params, state)


@functools.partial(devices.jit, static_argnames=("plan", "axes", "capacity"))
def _advance(plan, axes, capacity, trees, first, limits):
    """Trains all members for some rounds."""
    leaves, structure = jax.tree.flatten(trees)

    def advance(leaves):
        own = structure.unflatten(leaves)
        examples = own["data"], own["validation"], own["key"]
        return rounds(plan, capacity, *examples, own["progress"], first, limits)

    return jax.vmap(advance, in_axes=(list(axes),))(leaves)


def train(job: Job, lanes: Members, is_shown: bool | None = None) -> tuple[Progress, list[History]]:
    """Trains the members until each has stopped; returns their carries and what each has seen."""
    plan, progress = job.plan, lanes.trees["progress"]
    before = np.asarray(progress.step)
    histories = [job.begin.history] * len(before)
    columns = [Columns(history) for history in histories]
    segments, seconds, clock = segments_of_arrays(job, job.begin), None, time.perf_counter()
    with shown(is_shown, "fits") as say:
        while (segment := sent(segments, seconds)) is not None:
            trees = lanes.trees | {"progress": progress}
            plan, (progress, records) = _run(plan, lanes._replace(trees=trees), segment)
            steps, records = np.asarray(progress.step), jax.tree.map(np.asarray, records)
            histories = [
                column.append(_of_lane(records, index, before[index]), steps[index] - before[index])
                for index, column in enumerate(columns)
            ]
            before = steps
            say(segment.fraction, f"{len(steps)} members")
            now = time.perf_counter()
            seconds, clock = now - clock, now
            if (np.asarray(progress.stopped) != Stop.RUNNING).all():
                break
    return progress, histories


def _run(plan: Plan, lanes: Members, segment: Segment) -> tuple[Plan, tuple[Progress, Records]]:
    """Takes the steps of a segment, perhaps by another plan, of fewer examples at a time."""
    first = lanes.one(0)

    def run(plan: Plan) -> tuple[Progress, Records]:
        return _advance(
            plan, lanes.axes, segment.capacity, lanes.trees, segment.first, segment.limits
        )

    with explained(first["progress"].params, first["data"]):
        return within_memory(
            run,
            plan,
            lambda plan: plan.source(first["data"], first["key"], segment.first),
            segment.meanwhile,
        )


def _of_lane(records: Records, index: int, before: int) -> Records:
    """The records of a member, until it stopped."""
    ends = records.steps[index]
    used = ends[: int(records.rounds[index])]
    own = int((np.diff(used, prepend=before) > 0).sum())
    evaluated = {name: values[index] for name, values in records.evaluated.items()}
    return Records(records.value[index], ends, evaluated, jnp.int32(own))


def ends(
    job: Job, given: Members, progress: Progress, histories: Sequence[History]
) -> Iterator[tuple[Job, Snapshot]]:
    """Of each member the job that it had alone, and where it ended."""
    lanes = _with_examples(given, job, progress)
    for index, history in enumerate(histories):
        own = lanes.one(index)
        here = Snapshot(own["progress"], history, Position(), 1.0)
        yield job._replace(**own), here
