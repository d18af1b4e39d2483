"""One rule on one problem, compiled: lanes tell how far it comes, a run alone how fast.

A lane is a setting and a seed. All lanes of a rule are one program, by `vmap`; a lane that shares
its machine with others has no time of its own, so seconds are measured on one run without `vmap`,
compiled and warm, without the looks that only the race needs.

What a lane spends is metered while it runs: conjugate gradients and trials of a step count as often
as they were taken.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree, Scalar

from fnn import devices, flops
from fnn.objective import SCOPE, Objective, ValueFunction
from fnn.problems import Problem
from fnn.race.entrants import Entrant
from fnn.race.protocol import HOPELESS, ROUNDS
from fnn.training import Limits, Progress, Source, Stop, advance, source_of, start

Setting = Mapping[str, float]
MEMORY = 2**30
"""Bytes that the lanes of a program may take, by a rough count."""


# On CPUs most of a short race is compiling: with these it takes 60 % of the time, and programs run
# as fast to what can be measured. What runs once may take a quarter. All rules are treated alike.
# Flags in `XLA_FLAGS` come first, and a release that does not know an option does without.
_OPTIONS = {
    "xla_backend_optimization_level": 1,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
}
_ONCE = _OPTIONS | {"xla_backend_optimization_level": 0}


def compiler_options() -> dict[str, Any]:
    """How the programs of a race are compiled.

    Returns:
        The options that this XLA knows; none on other devices than CPUs.
    """
    return devices.compiler_options(_OPTIONS)


class Metered(NamedTuple):
    """The state of a metered rule.

    Attributes:
        state: the rule's own.
        flops: spent so far, in Kahan's sum: the total, and what it has lost to rounding.
        model: likewise those of models and penalties, forward, backward and along directions.
    """

    state: PyTree
    flops: Float[Array, "2"]
    model: Float[Array, "2"]


def metered(rule: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """A rule that counts what its whole step costs, value and gradient among it.

    Args:
        rule: any; it gets the extra arguments of the loop of `training`.

    Returns:
        The rule with a `Metered` state. It makes value and gradient itself, from `value_fn`.
    """
    rule = optax.with_extra_args_support(rule)

    def step(params: PyTree, state: PyTree, value_fn: ValueFunction) -> tuple[PyTree, PyTree]:
        value, grad = jax.value_and_grad(value_fn)(params)
        return rule.update(grad, state, params, value=value, grad=grad, value_fn=value_fn)

    def init(params: PyTree) -> Metered:
        return Metered(rule.init(params), jnp.zeros(2, jnp.float32), jnp.zeros(2, jnp.float32))

    def update(
        updates: PyTree,
        state: Metered,
        params: PyTree | None = None,
        *,
        value_fn: ValueFunction,
        **extra_args: Any,
    ) -> tuple[PyTree, Metered]:
        del updates, extra_args
        (moved, inner), spent = flops.metered(step, SCOPE)(params, state.state, value_fn)
        total, model = _add(state.flops, spent.flops), _add(state.model, spent.within)
        return moved, Metered(inner, total, model)

    bare: Any = init, update
    return optax.GradientTransformationExtraArgs(*bare)


# In float32, a thousandth would be missing after 10,000 equal steps.
def _add(total: Float[Array, "2"], number: float | Scalar) -> Float[Array, "2"]:
    number = number - total[1]
    more = total[0] + number
    return jnp.stack([more, jnp.asarray((more - total[0]) - number)])


class Seen(NamedTuple):
    """What was seen of lanes: at the end of each round, and in the end.

    Attributes:
        steps: of each lane.
        train: mean loss over the training data.
        validation: the lowest so far over the validation data, what early stopping would keep.
        flops: spent so far.
        model: those of models and penalties.
        test: the problem's measure of the parameters with the lowest validation loss.
        stopped: why, a `Stop`.
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
        run: `run(settings, seeds, ends, hopeless) -> Seen` takes all lanes to the last of `ends`,
            where each round ends; with `hopeless`, a lane that is no better than its start after a
            quarter of its budget is given up.
        alone: `alone(setting, seeds, steps) -> Alone`, runs one after the other.
    """

    run: Callable[[Sequence[Setting], Sequence[int], np.ndarray, bool], Seen]
    alone: Callable[[Setting, Sequence[int], int], "Alone"]


class Alone(NamedTuple):
    """What runs took that had the machine for themselves.

    Attributes:
        seconds: of each run, warm.
        compile_seconds: of their program.
    """

    seconds: list[float]
    compile_seconds: float


class Many(NamedTuple):
    """The compiled program of all lanes.

    Attributes:
        width: how many it has.
        chunk: `run` of `Programs`, for exactly so many.
    """

    width: int
    chunk: Callable[[Sequence[Setting], Sequence[int], np.ndarray, bool], Seen]


def programs(problem: Problem, entrant: Entrant, setting: Setting, lanes: int) -> Programs:
    """Compiles a rule on a problem.

    Args:
        problem: what is trained.
        entrant: the rule.
        setting: any; of what is compiled only the names of its hyperparameters.
        lanes: see `many`; others than the program has run in turns, the last one filled up.

    Returns:
        The programs.
    """
    width, chunk = many(problem, entrant, setting, lanes)

    def run(
        settings: Sequence[Setting], seeds: Sequence[int], ends: np.ndarray, hopeless: bool
    ) -> Seen:
        taken = [chunk(*turn, ends, hopeless) for turn in turns(settings, seeds, width)]
        return joined(taken, len(seeds))

    return Programs(run, alone(problem, entrant, setting))


def turns(
    settings: Sequence[Setting], seeds: Sequence[int], width: int
) -> list[tuple[list[Setting], list[int]]]:
    """Lanes in groups of one width, the last of them filled up by its last lane.

    Args:
        settings: of each lane.
        seeds: of each lane.
        width: of a group.

    Returns:
        Settings and seeds of each group.

    Example:
        >>> turns([{}] * 3, [7, 8, 9], 2)
        [([{}, {}], [7, 8]), ([{}, {}], [9, 9])]
    """
    asked = list(zip(settings, seeds, strict=True))
    asked += asked[-1:] * (-len(asked) % width)
    groups = [asked[i : i + width] for i in range(0, len(asked), width)]
    return [([s for s, _ in group], [k for _, k in group]) for group in groups]


def joined(chunks: Sequence[Seen], lanes: int) -> Seen:
    """What was seen of all turns as if of one.

    Args:
        chunks: of each turn.
        lanes: how many were asked for.

    Returns:
        The rows of these lanes.
    """
    return Seen(*(np.concatenate(rows)[:lanes] for rows in zip(*chunks, strict=True)))


def many(problem: Problem, entrant: Entrant, setting: Setting, lanes: int) -> Many:
    """Compiles the lanes of a rule on a problem.

    Args:
        problem: what is trained.
        entrant: the rule.
        setting: see `programs`.
        lanes: how many the program has, fewer where they would take more than `MEMORY`.

    Returns:
        The program.
    """
    data = jax.tree.map(jnp.asarray, (problem.train, problem.validation, problem.test))

    def begin(setting: Setting, key: Array, validation: PyTree) -> tuple[Progress, Scalar]:
        rule, params = metered(entrant.make(problem, **setting)), problem.init(key)
        loss = _mean_loss(problem.objective, validation, params)
        return start(rule, params, keep_best=True), loss

    def advanced(progress, setting, key, first, ends, rounds, data):
        train, validation, test = data

        def evaluate(progress: Progress) -> dict[str, Scalar]:
            value = _mean_loss(problem.objective, train, progress.params)
            seen = {"train": value}
            seen["loss"] = (
                value
                if problem.validation is problem.train
                else _mean_loss(problem.objective, validation, progress.params)
            )
            return seen | {"flops": progress.state.flops[0], "model": progress.state.model[0]}

        progress, records = advance(
            metered(entrant.make(problem, **setting)),
            _source(problem, entrant, train, key),
            evaluate,
            progress,
            first,
            Limits(steps=_UNLIMITED, rounds=rounds),
            round_end=lambda r: ends[r],
            capacity=(1, ROUNDS),
        )
        params, _ = progress.best
        return progress, records, problem.measure.of(params, test)

    begin_lanes = devices.jit(
        jax.vmap(begin, in_axes=(0, 0, None)), compiler_options=devices.compiler_options(_ONCE)
    )
    over_lanes = jax.vmap(advanced, in_axes=(0, 0, 0, None, None, None, None))
    number = jax.ShapeDtypeStruct((), jnp.int32)
    ends = jax.ShapeDtypeStruct((ROUNDS,), jnp.int32)
    traced = _traced(setting)
    begun, _ = jax.eval_shape(begin, traced, jax.random.key(0), data[1])
    width = max(1, min(lanes, MEMORY // _bytes_a_lane(problem, begun, data[0])))
    stacked = jax.tree.map(lambda a: jnp.zeros((width, *a.shape), a.dtype), traced)
    keys = jax.vmap(jax.random.key)(jnp.arange(width))
    begun, _ = jax.eval_shape(begin_lanes, stacked, keys, data[1])
    advance_lanes = devices.compiled(
        jax.jit(over_lanes, donate_argnums=0).trace(
            begun, stacked, keys, number, ends, number, data
        ),
        _OPTIONS,
    )

    def chunk(
        settings: Sequence[Setting], seeds: Sequence[int], ends: np.ndarray, hopeless: bool
    ) -> Seen:
        stacked = {name: jnp.array([s[name] for s in settings], float) for name in traced}
        keys = jax.vmap(jax.random.key)(jnp.array(seeds))
        progress, before = begin_lanes(stacked, keys, data[1])
        parts, first, score = [], 0, None
        early = int(np.searchsorted(ends, HOPELESS * ends[-1])) + 1
        for part in (ends[:early], ends[early:]) if hopeless else (ends,):
            if not len(part):
                continue
            padded = np.pad(part - first, (0, ROUNDS - len(part)), mode="edge").astype(np.int32)
            progress, records, score = advance_lanes(
                progress, stacked, keys, jnp.int32(first), padded, jnp.int32(len(part)), data
            )
            parts.append(_cut(records))
            first = int(part[-1])
            if hopeless and len(parts) == 1:
                best = np.fmin.reduce(parts[0]["loss"], axis=1)
                progress = _give_up(progress, best, np.asarray(before))
        seen = {name: np.concatenate([p[name] for p in parts], axis=1) for name in parts[0]}
        # Where all lanes have stopped there are no more rounds.
        missing = (0, 0), (0, len(ends) - seen["steps"].shape[1])
        seen = {name: np.pad(values, missing, mode="edge") for name, values in seen.items()}
        stopped = np.asarray(progress.stopped)
        return Seen(
            seen["steps"],
            seen["train"],
            np.fmin.accumulate(seen["loss"], axis=1),
            seen["flops"],
            seen["model"],
            np.asarray(score),
            np.where(stopped == Stop.RUNNING, Stop.BUDGET, stopped),
        )

    return Many(width, chunk)


def alone(
    problem: Problem, entrant: Entrant, setting: Setting
) -> Callable[[Setting, Sequence[int], int], Alone]:
    """Compiles a run of a rule on a problem without `vmap`, to measure its seconds.

    Args:
        problem: what is trained.
        entrant: the rule.
        setting: see `programs`.

    Returns:
        `alone` of `Programs`.
    """
    train = jax.tree.map(jnp.asarray, problem.train)

    def begin(setting, key):
        return start(entrant.make(problem, **setting), problem.init(key), keep_best=False)

    def advanced(progress, setting, key, steps, train):
        return advance(
            entrant.make(problem, **setting),
            _source(problem, entrant, train, key),
            lambda _: {},
            progress,
            0,
            Limits(steps, 1),
            round_end=lambda _: steps,
            capacity=(1, 1),
        )[0]

    began = time.perf_counter()
    begin_one = devices.jit(begin, compiler_options=devices.compiler_options(_ONCE))
    key = jax.random.key(0)
    traced = _traced(setting)
    begun = jax.eval_shape(begin_one, traced, key)
    number = jax.ShapeDtypeStruct((), jnp.int32)
    one = devices.compiled(jax.jit(advanced).trace(begun, traced, key, number, train), _OPTIONS)
    compile_seconds = time.perf_counter() - began

    def seconds(setting: Setting, seed: int, steps: int) -> float:
        given = _traced(setting), jax.random.key(seed), jnp.int32(steps), train
        given = jax.block_until_ready((begin_one(*given[:2]), *given))
        began = time.perf_counter()
        jax.block_until_ready(one(*given))
        return time.perf_counter() - began

    def run(setting: Setting, seeds: Sequence[int], steps: int) -> Alone:
        seconds(setting, seeds[0], 1)
        return Alone([seconds(setting, seed, steps) for seed in seeds], compile_seconds)

    return run


def _source(problem: Problem, entrant: Entrant, train: PyTree, key: Array) -> Source:
    if problem.objective is None:
        return source_of(None, train)
    return source_of(problem.objective, train, batch_size=entrant.examples(problem), key=key)


_UNLIMITED = np.iinfo(np.int32).max


def gradient_flops(problem: Problem) -> float:
    """The model's flops of one gradient of the mean loss over the training data.

    Args:
        problem: the problem.

    Returns:
        The unit of the cost `gradients`.
    """
    params = jax.eval_shape(problem.init, jax.random.key(0))
    train = jax.tree.map(jnp.asarray, problem.train)

    def gradient(params: PyTree, train: PyTree) -> PyTree:
        return jax.grad(lambda params: _mean_loss(problem.objective, train, params))(params)

    return float(flops.count_within(SCOPE, gradient, params, train).within)


def _mean_loss(objective: Objective | None, data: PyTree, params: PyTree) -> Scalar:
    """The mean loss without penalties."""
    if objective is None:
        return data(params)
    return Objective(objective.model, objective.loss).on(data)(params)


def _traced(setting: Setting) -> dict[str, Array]:
    return {name: jnp.asarray(x, jnp.result_type(float)) for name, x in setting.items()}


def _cut(records: Any) -> dict[str, np.ndarray]:
    seen = dict(records.evaluated) | {"steps": records.steps}
    rounds = int(np.max(records.rounds))
    return {name: np.asarray(values)[:, :rounds] for name, values in seen.items()}


# Parameters and states, the best beside the last, and all that a look at the training data makes.
def _bytes_a_lane(problem: Problem, progress: Progress, train: PyTree) -> int:
    def look(params: PyTree, train: PyTree) -> Scalar:
        return _mean_loss(problem.objective, train, params)

    program = jax.make_jaxpr(look)(progress.params, train)
    made = [var.aval for eqn in program.eqns for var in eqn.outvars]
    return sum(math.prod(a.shape) * a.dtype.itemsize for a in made) + 2 * sum(
        math.prod(a.shape) * a.dtype.itemsize for a in jax.tree.leaves(progress)
    )


def _give_up(progress: Progress, now: np.ndarray, before: np.ndarray) -> Progress:
    worse = (progress.stopped == Stop.RUNNING) & ~(now < before)
    stopped = jnp.where(worse, Stop.GIVEN_UP, progress.stopped).astype(jnp.int32)
    return progress._replace(stopped=stopped)
