"""One rule on one problem, many lanes in one compiled program: they tell how far the rule comes.

A lane is a run of one setting from one seed. `vmap` makes one program of all lanes of a rule. They
share the machine, so that no lane has seconds of its own: `alone` measures those. `meter` counts
the flops that each lane spends.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree, Scalar

from fnn import devices
from fnn.problems import Budget, Problem
from fnn.race.alone import RunAlone, alone
from fnn.race.compiling import ONCE, OPTIONS, Setting, source, traced
from fnn.race.entrants import Entrant
from fnn.race.failures import blaming_the_rule
from fnn.race.laps import Allowance, run_laps
from fnn.race.meter import OTHER, gradient_flops, mean_loss, with_meter
from fnn.training import Progress, start

MEMORY = 2**30
"""Bytes that the lanes of a program may take, by a rough count: what a small machine has to spare,
and the same everywhere, so that races repeat."""


class Outcome(NamedTuple):
    """How far lanes came: arrays of (lanes, laps), where `test` and `stopped` are of (lanes,).

    A lane with fewer laps than others repeats its last one.

    Attributes:
        steps: how many were taken until the end of the lap.
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


RunLanes = Callable[[Sequence[Setting], Sequence[int], Budget], Outcome]
"""Runs lanes, one for each pair of a setting and a seed, to the end of a budget that is counted."""


class Programs(NamedTuple):
    """The compiled programs of a rule on a problem.

    Attributes:
        run: `run(settings, seeds, budget) -> Outcome` tells how far any number of lanes come.
        alone: `alone(setting, seeds, steps) -> Timing` tells how many seconds runs take.

    Both raise `RuleFailedError` where the rule raises.
    """

    run: RunLanes
    alone: RunAlone


class LaneProgram(NamedTuple):
    """The compiled program of all lanes.

    Attributes:
        width: the number of lanes.
        names: the hyperparameters of a setting.
        prices: of each unit that is counted, see `prices_of`.
        begin: `begin(settings, keys)` returns all lanes at their starts.
        finish: `finish(progress, settings, keys, allowance, data)` returns the lanes at their ends,
            the number of laps and what was seen of each, and the measure of the best parameters.
        data: training, validation and test data.
    """

    width: int
    names: tuple[str, ...]
    prices: Mapping[str, tuple[list[float], float]]
    begin: Callable[..., Progress]
    finish: Callable[..., tuple[Progress, Array, dict[str, Array], Array]]
    data: tuple[PyTree, PyTree, PyTree]

    def turn(self, settings: Sequence[Setting], seeds: Sequence[int], budget: Budget) -> Outcome:
        """`run` of `Programs`, for exactly `width` lanes."""
        stacked = {name: jnp.array([s[name] for s in settings], float) for name in self.names}
        keys = jax.vmap(jax.random.key)(jnp.array(seeds))
        progress, allowance = self.begin(stacked, keys), _allowance(self.prices, budget)
        progress, laps, seen, score = self.finish(progress, stacked, keys, allowance, self.data)
        return _outcome(laps, seen, np.asarray(score), np.asarray(progress.stopped))


def prices_of(problem: Problem, entrant: Entrant) -> dict[str, tuple[list[float], float]]:
    """What a step, a flop and a flop of the model count in each unit, and a step at least."""
    # A step of a rule that never asks the model counts as the gradient of one example, or else its
    # run would have no end.
    gradient = gradient_flops(problem) or 1.0
    examples = 1 if problem.objective is None else len(jax.tree.leaves(problem.train)[0])
    return {
        "steps": ([1.0, 0.0, 0.0], 0.0),
        "examples": ([entrant.examples(problem), 0.0, 0.0], 0.0),
        "flops": ([0.0, 1.0, 0.0], gradient / examples),
        "gradients": ([0.0, OTHER / gradient, (1 - OTHER) / gradient], 1 / examples),
    }


def _allowance(prices: Mapping[str, tuple[list[float], float]], budget: Budget) -> Allowance:
    """A budget as the arrays that the program of the lanes takes."""
    numbers = budget.amount, *prices[budget.unit]
    return Allowance(*(jnp.asarray(each, float) for each in numbers))


def programs(problem: Problem, entrant: Entrant, setting: Setting, most: int) -> Programs:
    """The programs of a rule, for settings with the names of this one and any number of lanes."""
    with blaming_the_rule():
        program = compiled_lanes(problem, entrant, setting, most)
        measured = alone(problem, entrant, setting)

    @blaming_the_rule()
    def run(settings: Sequence[Setting], seeds: Sequence[int], budget: Budget) -> Outcome:
        shares = turns(settings, seeds, program.width)
        return joined([program.turn(*share, budget) for share in shares], len(seeds))

    return Programs(run, blaming_the_rule()(measured))


def turns(
    settings: Sequence[Setting], seeds: Sequence[int], width: int
) -> list[tuple[list[Setting], list[int]]]:
    """The settings and seeds of `width` lanes at a time; the last lane fills up the last turn."""
    pairs = list(zip(settings, seeds, strict=True))
    pairs += pairs[-1:] * (-len(pairs) % width)
    groups = [pairs[i : i + width] for i in range(0, len(pairs), width)]
    return [([s for s, _ in group], [k for _, k in group]) for group in groups]


def joined(turns: Sequence[Outcome], lanes: int) -> Outcome:
    """The outcomes of all turns as one, without the lanes that filled up the last turn."""
    most = max(turn.steps.shape[1] for turn in turns)

    def widened(rows: np.ndarray) -> np.ndarray:
        return np.pad(rows, ((0, 0), (0, most - rows.shape[1])), mode="edge")

    rows = ([widened(a) if a.ndim > 1 else a for a in each] for each in zip(*turns, strict=True))
    return Outcome(*(np.concatenate(each)[:lanes] for each in rows))


def compiled_lanes(problem: Problem, entrant: Entrant, setting: Setting, most: int) -> LaneProgram:
    """The program of so many lanes, or of fewer where those would take more than `MEMORY`."""
    data = jax.tree.map(jnp.asarray, (problem.train, problem.validation, problem.test))
    begin_lanes = devices.jit(
        jax.vmap(functools.partial(_begin, problem, entrant)),
        compiler_options=devices.compiler_options(ONCE),
    )
    template = traced(setting)
    begun = jax.eval_shape(begin_lanes, *_stacked(template, 1))
    one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), begun)
    width = max(1, min(most, MEMORY // bytes_a_lane(problem, one, data[0])))
    stacked, keys = _stacked(template, width)
    begun = jax.eval_shape(begin_lanes, stacked, keys)
    prices = prices_of(problem, entrant)
    allowance = _allowance(prices, Budget(1, "steps"))
    over_lanes = jax.vmap(
        functools.partial(_finish, problem, entrant), in_axes=(0, 0, 0, None, None)
    )
    inputs = begun, stacked, keys, allowance, data
    finish_lanes = devices.compiled(devices.traced(over_lanes, *inputs, donate_argnums=0), OPTIONS)
    return LaneProgram(width, tuple(template), prices, begin_lanes, finish_lanes, data)


def _stacked(template: dict[str, Array], width: int) -> tuple[dict[str, Array], Array]:
    """Settings and keys of the shapes that so many lanes have."""
    settings = jax.tree.map(lambda a: jnp.zeros((width, *a.shape), a.dtype), template)
    return settings, jax.vmap(jax.random.key)(jnp.arange(width))


def _begin(problem: Problem, entrant: Entrant, setting: Setting, key: Array) -> Progress:
    """A lane at its start."""
    rule = with_meter(entrant.make(problem, **setting))
    return start(rule, problem.init(key), keep_best=True)


def _finish(
    problem: Problem,
    entrant: Entrant,
    progress: Progress,
    setting: Setting,
    key: Array,
    allowance: Allowance,
    data: tuple[PyTree, PyTree, PyTree],
) -> tuple[Progress, Array, dict[str, Array], Scalar]:
    """A lane at its end, its laps and what was seen of each, the measure of its best parameters."""
    train, validation, test = data

    def evaluate(progress: Progress) -> dict[str, Scalar]:
        value = loss = mean_loss(problem.objective, train, progress.params)
        if problem.validation is not problem.train:
            loss = mean_loss(problem.objective, validation, progress.params)
        spent = {"flops": progress.state.flops[0], "model": progress.state.model[0]}
        return {"train": value, "loss": loss, **spent}

    progress, laps, seen = run_laps(
        with_meter(entrant.make(problem, **setting)),
        source(problem, entrant, train, key),
        evaluate,
        progress,
        allowance,
    )
    params, _ = progress.best
    return progress, laps, seen, problem.measure.of(params, test)


def _outcome(
    laps: Array, seen: Mapping[str, Array], test: np.ndarray, stopped: np.ndarray
) -> Outcome:
    """What was seen of all lanes, with as many laps as the longest lane has."""
    last = np.asarray(laps)[:, None] - 1
    places = np.minimum(np.arange(last.max() + 1), last)
    rows = {name: np.take_along_axis(np.asarray(a), places, axis=1) for name, a in seen.items()}
    return Outcome(
        rows["steps"],
        rows["train"],
        np.fmin.accumulate(rows["loss"], axis=1),
        rows["flops"],
        rows["model"],
        test,
        stopped,
    )


def bytes_a_lane(problem: Problem, progress: Progress, train: PyTree) -> int:
    """The bytes of a lane's state before and after a step, and of all results in a mean loss."""
    loss = functools.partial(mean_loss, problem.objective)
    program = jax.make_jaxpr(loss)(train, progress.params)
    results = [var.aval for equation in program.eqns for var in equation.outvars]
    arrays = [*results, *2 * jax.tree.leaves(progress)]
    return sum(math.prod(a.shape) * a.dtype.itemsize for a in arrays)
