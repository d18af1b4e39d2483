"""One rule on one problem, many lanes in one compiled program: they tell how far the rule comes.

A lane is a run of one setting from one seed. `vmap` makes one program of all lanes of a rule. They
share the machine, so that no lane has seconds of its own: `alone` measures those. `meter` counts
the flops that each lane spends.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree, Scalar

from fnn import devices
from fnn.problems import Problem
from fnn.race.alone import Timing, alone
from fnn.race.compiling import ONCE, OPTIONS, Setting, source, traced
from fnn.race.entrants import Entrant
from fnn.race.failures import blaming_the_rule
from fnn.race.meter import mean_loss, with_meter
from fnn.race.protocol import HOPELESS, ROUNDS
from fnn.training import Limits, Progress, Stop, advance, start

MEMORY = 2**30
"""Bytes that the lanes of a program may take, by a rough count: what a small machine has to spare,
and the same everywhere, so that races repeat."""

_UNLIMITED = np.iinfo(np.int32).max
"""Rounds end a lane, and steps never do."""


class Outcome(NamedTuple):
    """How far lanes came: arrays of (lanes, rounds), where `test` and `stopped` are of (lanes,).

    Attributes:
        steps: how many were taken until the end of the round.
        train: the mean loss over the training data.
        validation: the lowest loss so far over the validation data, as early stopping keeps it.
        flops: what was spent so far.
        model: the flops of models and penalties among them.
        test: the problem's measure of the parameters with the lowest validation loss.
        stopped: the reason, a `Stop`.
    """

    steps: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    flops: np.ndarray
    model: np.ndarray
    test: np.ndarray
    stopped: np.ndarray


class Programs(NamedTuple):
    """The compiled programs of a rule on a problem.

    Attributes:
        run: `run(settings, seeds, ends, hopeless) -> Outcome` takes all lanes through rounds that
            end after so many steps as `ends` says; with `hopeless`, it gives up each lane that is
            no better than its start after a quarter of its budget.
        alone: `alone(setting, seeds, steps) -> Timing` measures runs one after the other.

    Both raise `RuleFailedError` where the rule raises.
    """

    run: Callable[[Sequence[Setting], Sequence[int], np.ndarray, bool], Outcome]
    alone: Callable[[Setting, Sequence[int], int], Timing]


class LaneProgram(NamedTuple):
    """The compiled program of all lanes.

    Attributes:
        width: the number of lanes.
        names: the hyperparameters of a setting.
        begin: `begin(settings, keys, validation)` returns all lanes at their starts, and their
            validation losses there.
        advance: `advance(progress, settings, keys, first, ends, rounds, data)` returns the lanes
            after so many rounds, the record of each, and the measure of the best parameters.
        data: training, validation and test data.
    """

    width: int
    names: tuple[str, ...]
    begin: Callable[..., tuple[Progress, Array]]
    advance: Callable[..., tuple[Progress, Any, Array]]
    data: tuple[PyTree, PyTree, PyTree]

    def chunk(
        self, settings: Sequence[Setting], seeds: Sequence[int], ends: np.ndarray, hopeless: bool
    ) -> Outcome:
        """`run` of `Programs`, for exactly `width` lanes."""
        stacked = {name: jnp.array([s[name] for s in settings], float) for name in self.names}
        keys = jax.vmap(jax.random.key)(jnp.array(seeds))
        progress, before = self.begin(stacked, keys, self.data[1])
        # A trial is looked at after the round in which it passes a quarter of its budget. Where
        # that is the last one, there is nothing left to save: it ends by its budget.
        early = int(np.searchsorted(ends, HOPELESS * ends[-1])) + 1 if hopeless else len(ends)
        parts, first, score = [], 0, None
        for part in (ends[:early], ends[early:]):
            if not len(part):
                continue
            if len(parts):
                best = np.fmin.reduce(parts[0]["loss"], axis=1)
                progress = _give_up(progress, best, np.asarray(before))
            padded = np.pad(part - first, (0, ROUNDS - len(part)), mode="edge").astype(np.int32)
            progress, records, score = self.advance(
                progress, stacked, keys, jnp.int32(first), padded, jnp.int32(len(part)), self.data
            )
            parts.append(_rounds_of(records))
            first = int(part[-1])
        return _outcome(parts, len(ends), np.asarray(score), np.asarray(progress.stopped))


def programs(problem: Problem, entrant: Entrant, setting: Setting, lanes: int) -> Programs:
    """The programs of a rule, for settings with the names of this one and any number of lanes."""
    with blaming_the_rule():
        program = compiled_lanes(problem, entrant, setting, lanes)
        measured = alone(problem, entrant, setting)

    @blaming_the_rule()
    def run(
        settings: Sequence[Setting], seeds: Sequence[int], ends: np.ndarray, hopeless: bool
    ) -> Outcome:
        groups = turns(settings, seeds, program.width)
        return joined([program.chunk(*group, ends, hopeless) for group in groups], len(seeds))

    return Programs(run, blaming_the_rule()(measured))


def turns(
    settings: Sequence[Setting], seeds: Sequence[int], width: int
) -> list[tuple[list[Setting], list[int]]]:
    """The settings and seeds of groups of `width` lanes; the last lane fills up the last group."""
    pairs = list(zip(settings, seeds, strict=True))
    pairs += pairs[-1:] * (-len(pairs) % width)
    groups = [pairs[i : i + width] for i in range(0, len(pairs), width)]
    return [([s for s, _ in group], [k for _, k in group]) for group in groups]


def joined(turns: Sequence[Outcome], lanes: int) -> Outcome:
    """The outcomes of all turns as one, without the lanes that filled up the last turn."""
    return Outcome(*(np.concatenate(rows)[:lanes] for rows in zip(*turns, strict=True)))


def compiled_lanes(problem: Problem, entrant: Entrant, setting: Setting, lanes: int) -> LaneProgram:
    """The program of so many lanes, or of fewer where those would take more than `MEMORY`."""
    data = jax.tree.map(jnp.asarray, (problem.train, problem.validation, problem.test))
    begin_lanes = devices.jit(
        jax.vmap(functools.partial(_begin, problem, entrant), in_axes=(0, 0, None)),
        compiler_options=devices.compiler_options(ONCE),
    )
    template = traced(setting)
    begun, _ = jax.eval_shape(begin_lanes, *_stacked(template, 1), data[1])
    one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), begun)
    width = max(1, min(lanes, MEMORY // bytes_a_lane(problem, one, data[0])))
    stacked, keys = _stacked(template, width)
    begun, _ = jax.eval_shape(begin_lanes, stacked, keys, data[1])
    number, ends = (jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((), (ROUNDS,)))
    over_lanes = jax.vmap(
        functools.partial(_advance, problem, entrant), in_axes=(0, 0, 0, None, None, None, None)
    )
    advance_lanes = devices.compiled(
        jax.jit(over_lanes, donate_argnums=0).trace(
            begun, stacked, keys, number, ends, number, data
        ),
        OPTIONS,
    )
    return LaneProgram(width, tuple(template), begin_lanes, advance_lanes, data)


def _stacked(template: dict[str, Array], width: int) -> tuple[dict[str, Array], Array]:
    """Settings and keys of the shapes that so many lanes have."""
    settings = jax.tree.map(lambda a: jnp.zeros((width, *a.shape), a.dtype), template)
    return settings, jax.vmap(jax.random.key)(jnp.arange(width))


def _begin(
    problem: Problem, entrant: Entrant, setting: Setting, key: Array, validation: PyTree
) -> tuple[Progress, Scalar]:
    """A lane at its start, and its loss over the validation data there."""
    rule, params = with_meter(entrant.make(problem, **setting)), problem.init(key)
    loss = mean_loss(problem.objective, validation, params)
    return start(rule, params, keep_best=True), loss


def _advance(
    problem: Problem,
    entrant: Entrant,
    progress: Progress,
    setting: Setting,
    key: Array,
    first: Array,
    ends: Array,
    rounds: Any,
    data: tuple[PyTree, PyTree, PyTree],
) -> tuple[Progress, Any, Scalar]:
    """A lane after so many rounds, the record of each, and the measure of its best parameters."""
    train, validation, test = data

    def evaluate(progress: Progress) -> dict[str, Scalar]:
        value = loss = mean_loss(problem.objective, train, progress.params)
        if problem.validation is not problem.train:
            loss = mean_loss(problem.objective, validation, progress.params)
        spent = {"flops": progress.state.flops[0], "model": progress.state.model[0]}
        return {"train": value, "loss": loss, **spent}

    progress, records = advance(
        with_meter(entrant.make(problem, **setting)),
        source(problem, entrant, train, key),
        evaluate,
        progress,
        first,
        Limits(steps=_UNLIMITED, rounds=rounds),
        round_end=lambda r: ends[r],
        capacity=(1, ROUNDS),
    )
    params, _ = progress.best
    return progress, records, problem.measure.of(params, test)


def _outcome(
    parts: Sequence[dict[str, np.ndarray]], rounds: int, test: np.ndarray, stopped: np.ndarray
) -> Outcome:
    """Parts of a run as one; rounds after all lanes have stopped repeat the last one."""
    rows = {name: np.concatenate([p[name] for p in parts], axis=1) for name in parts[0]}
    missing = (0, 0), (0, rounds - rows["steps"].shape[1])
    rows = {name: np.pad(values, missing, mode="edge") for name, values in rows.items()}
    return Outcome(
        rows["steps"],
        rows["train"],
        np.fmin.accumulate(rows["loss"], axis=1),
        rows["flops"],
        rows["model"],
        test,
        np.where(stopped == Stop.RUNNING, Stop.BUDGET, stopped),
    )


def _rounds_of(records: Any) -> dict[str, np.ndarray]:
    """The records of the loop, by name, without the space for rounds that there were not."""
    evaluations = dict(records.evaluated) | {"steps": records.steps}
    rounds = int(np.max(records.rounds))
    return {name: np.asarray(values)[:, :rounds] for name, values in evaluations.items()}


def bytes_a_lane(problem: Problem, progress: Progress, train: PyTree) -> int:
    """The bytes of a lane's state before and after a step, and of all results in a mean loss."""
    loss = functools.partial(mean_loss, problem.objective)
    program = jax.make_jaxpr(loss)(train, progress.params)
    results = [var.aval for equation in program.eqns for var in equation.outvars]
    arrays = [*results, *2 * jax.tree.leaves(progress)]
    return sum(math.prod(a.shape) * a.dtype.itemsize for a in arrays)


def _give_up(progress: Progress, best: np.ndarray, at_start: np.ndarray) -> Progress:
    """Stops each running lane whose lowest loss so far is NaN or not below that of its start."""
    worse = (progress.stopped == Stop.RUNNING) & ~(best < at_start)
    stopped = jnp.where(worse, Stop.GIVEN_UP, progress.stopped).astype(jnp.int32)
    return progress._replace(stopped=stopped)
