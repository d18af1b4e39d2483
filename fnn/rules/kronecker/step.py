"""What K-FAC and EKFAC share: the step from a batch, and what they remember (see `kfac`)."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Int, PyTree

from fnn import solvers
from fnn.branches import where_due
from fnn.curvature import Blocks, Structure, kronecker_blocks
from fnn.objective import ValueFunction
from fnn.rules.contract import (
    Scalar,
    Schedule,
    now,
    require_aligned,
    require_rates,
    require_within,
    second_order,
    state_dtype,
)
from fnn.rules.damping import Damping, DampingState, trust_ratio
from fnn.rules.kronecker.blocks import (
    Mean,
    Measure,
    Memory,
    dampings,
    first_memory,
    largest_norm,
    refreshing,
    steps_apart,
)
from fnn.rules.kronecker.layout import Layout, Pools, Stacks, layout_of, turns
from fnn.rules.kronecker.two_step_sizes import lowest, plane, promise
from fnn.rules.trials import (
    Info,
    Proposal,
    by_gain,
    first_accepted,
    info_after_trial,
    no_info,
    unlearned,
    where_accepted,
)


class KroneckerState(NamedTuple):
    """What `kfac` and `ekfac` remember.

    Attributes:
        damping: Its unit is the norm of the largest block at the start; one that does not change
            has no verdict.
        velocity: The last movement; 0 after a rejection.
        batches: How many are part of the means; the others had a curvature that is not finite.
        memory: Of the leaves that have factors, those of one shape together.
        diagonals: By the path of each other leaf, the diagonal of its Gauss-Newton block.
        info: What came of the steps; `value`, `gain` and `changed` are None with a damping that
            does not change; `stalled` where the damping arrived at its maximum.
    """

    damping: DampingState
    velocity: PyTree
    batches: Int[Array, ""]
    memory: Memory
    diagonals: dict[str, Array]
    info: Info


class Options(NamedTuple):
    """The arguments of `kfac` and `ekfac`, see there."""

    structure: Structure
    learning_rate: Scalar | Schedule | None
    damping: Scalar | Schedule | None
    decay: Scalar
    momentum: Scalar | None
    policy: Damping | None
    refresh: int
    samples: int | None
    examples: int | None
    memory_budget: int
    every: int


def kronecker(
    name: str, measure: Measure, options: Options
) -> optax.GradientTransformationExtraArgs:
    """The rule of a measure."""
    _require_options(name, options)
    # A damping that is nothing beside rounding would leave the model to stale directions.
    policy = options.policy or trust_ratio(1.5, 2 / 3, minimum=1e-6)
    follow, layout = by_gain(policy), layout_of(options.structure)

    def init(params: PyTree) -> KroneckerState:
        dtype = state_dtype(params)
        zero = jnp.zeros((), dtype)
        damping = DampingState(zero, zero, zero)
        return KroneckerState(
            damping=damping.awaiting_verdict() if follow.follows else damping,
            velocity=jax.tree.map(lambda leaf: jnp.zeros(jnp.shape(leaf), dtype), params),
            batches=jnp.zeros((), jnp.int32),
            memory=first_memory(measure, layout, dtype),
            diagonals={
                path: jnp.zeros(shape, dtype)
                for path, shape, matrix in options.structure.leaves
                if matrix is None
            },
            info=no_info(dtype, looks=follow.follows, gain=follow.follows, counts=False),
        )

    def update(
        updates: PyTree,
        state: KroneckerState,
        params: PyTree,
        *,
        value: Array,
        value_fn: ValueFunction,
        **extra_args: Any,
    ) -> tuple[PyTree, KroneckerState]:
        del extra_args
        require_aligned(updates, state.velocity, "state")
        sampled = _sampled(options, value_fn, params, state.info.steps)
        is_due = (state.info.steps % options.every == 0) | (state.batches == 0)

        def measured(make: Callable[[Blocks], PyTree], otherwise: PyTree) -> PyTree:
            if options.every == 1:
                return make(sampled)
            # A branch makes its own: what it took from outside would be made in every step.
            again = partial(_sampled, options, value_fn, params, state.info.steps)
            return where_due(is_due, lambda: make(again()), otherwise)

        known = _known(layout, options, measured, state)
        given = None if options.damping is None else now(options.damping, state.info.steps)
        before, changed = unlearned(state.damping, params, value, follow)
        damping = policy.init(given, before, known.unit)
        shifts = dampings(layout, sampled, damping.value)
        state = _with_batch(measure, options, measured, known, shifts, state)
        direction = steps_apart(
            measure, layout, sampled, state.memory, state.diagonals, updates, damping.value
        )
        velocity, promised = _velocity(
            options, policy, sampled, updates, direction, damping.value, state
        )
        proposal = _proposal(value_fn, params, value, updates, velocity, promised)
        proposal = proposal._replace(ok=known.is_finite & proposal.ok)
        trial = first_accepted(lambda _: proposal, follow, params, value, damping, None)
        return trial.step, state._replace(
            damping=trial.damping,
            velocity=where_accepted(trial.accepted, velocity),  # a rejected step ends it, too
            info=info_after_trial(state.info, trial, follow, changed),
        )

    return second_order(init, update)


def _require_options(name: str, options: Options) -> None:
    """Require a structure, and numbers in their ranges."""
    if not isinstance(options.structure, Structure):
        raise TypeError(
            f"{name}: expected a structure, got {type(options.structure).__name__}; try "
            "curvature.structure(model, params, x) with one example x"
        )
    given = {key: number for key, number in options._asdict().items() if number is not None}
    require_rates(name, **{key: given[key] for key in ("learning_rate", "damping") if key in given})
    require_within(name, 0, 1, **{key: given[key] for key in ("decay", "momentum") if key in given})
    counts = "refresh", "every", "memory_budget", "samples", "examples"
    require_within(name, 1, math.inf, **{key: given[key] for key in counts if key in given})


def _sampled(
    options: Options, value_fn: ValueFunction, params: PyTree, steps: Int[Array, ""]
) -> Blocks:
    """The blocks of the batch, or of a draw of its examples and of their rows."""
    key = jax.random.fold_in(jax.random.key(0), steps)
    if options.examples is not None:
        value_fn = value_fn.sample(jax.random.fold_in(key, 1), options.examples)
    return kronecker_blocks(
        value_fn,
        params,
        options.structure,
        key=None if options.samples is None else key,
        samples=options.samples or 1,
        memory_budget=options.memory_budget,
    )


class Known(NamedTuple):
    """What is known of the curvature, with the present batch where it is measured.

    Attributes:
        factors: Means over the batches.
        diagonals: Likewise.
        batches: How many are part of the means.
        unit: That of the damping.
        is_finite: Whether the batch's curvature is, and so counts.
    """

    factors: Pools
    diagonals: dict[str, Array]
    batches: Int[Array, ""]
    unit: Array
    is_finite: Bool[Array, ""]


Measured: TypeAlias = Callable[[Callable[[Blocks], Any], Any], Any]
"""`make, otherwise -> make(blocks)` of the present batch where it is measured, else `otherwise`."""


def _known(layout: Layout, options: Options, measured: Measured, state: KroneckerState) -> Known:
    """What is known with the present batch, where it is measured."""

    def with_batch(sampled: Blocks) -> Known:
        factors = layout.with_leaves(sampled.factors, state.memory.factors)
        # No entry of a sum of squares is larger than the largest of its diagonal.
        marks = jax.tree.map(lambda f: jnp.diagonal(f, axis1=-2, axis2=-1), factors)
        is_finite = solvers.all_finite((marks, sampled.diagonals))
        batches = state.batches + is_finite.astype(jnp.int32)
        mean = _mean(options, batches, is_finite)
        old = {path: state.diagonals[path] for path in sampled.diagonals}
        factors = mean.with_batch(state.memory.factors, factors)
        diagonals = state.diagonals | mean.with_batch(old, sampled.diagonals)
        unit = jax.lax.cond(
            is_finite & (state.damping.unit == 0),  # at the first batch, which is the mean
            lambda: largest_norm(layout, factors, diagonals),
            lambda: state.damping.unit,
        )
        return Known(factors, diagonals, batches, unit, is_finite)

    memory, unit = state.memory, state.damping.unit
    kept = Known(memory.factors, state.diagonals, state.batches, unit, jnp.array(True))
    return measured(with_batch, kept)


def _mean(options: Options, batches: Int[Array, ""], is_finite: Bool[Array, ""]) -> Mean:
    """The mean over so many batches, of which the last one comes to it."""
    count = jnp.maximum(batches, 1).astype(float)
    return Mean((1 - options.decay) / (1 - jnp.power(options.decay, count)), is_finite)


def _with_batch(
    measure: Measure,
    options: Options,
    measured: Measured,
    known: Known,
    shifts: Stacks,
    state: KroneckerState,
) -> KroneckerState:
    """The state with what is known, and with new bases where they are due."""
    layout, is_first = layout_of(options.structure), state.batches == 0
    step = state.batches * options.every + state.info.steps % options.every
    due = {
        name: known.is_finite & (is_first | (step % options.refresh == own))
        for name, own in turns(options.structure, options.refresh).items()
    }
    memory = state.memory._replace(factors=known.factors)
    memory = refreshing(measure, options.structure)(due, shifts, memory)
    if measure.moments:
        mean = _mean(options, known.batches, known.is_finite)
        moments = measured(partial(_moments, layout, mean, memory), memory.moments)
        memory = memory._replace(moments=moments)
    return state._replace(batches=known.batches, memory=memory, diagonals=known.diagonals)


def _moments(layout: Layout, mean: Mean, memory: Memory, sampled: Blocks) -> dict[str, Array]:
    """The means of the moments with those of a batch in them."""
    moments = sampled.moments({path: layout.leaf(memory.bases, path) for path in sampled.factors})
    stacks = {
        group.name: group.stacked(moments, memory.moments[group.name].__getitem__)
        for group in layout.groups
    }
    return mean.with_batch(memory.moments, stacks)


def _velocity(
    options: Options,
    policy: Damping,
    sampled: Blocks,
    grad: PyTree,
    direction: PyTree,
    damping: Array,
    state: KroneckerState,
) -> tuple[PyTree, Array | None]:
    """The movement along direction and velocity; what the model promises, where that is read."""
    learning_rate, momentum = options.learning_rate, options.momentum
    if learning_rate is not None:
        learning_rate = now(learning_rate, state.info.steps)
    promised, adapts = None, policy.shrink is not None
    if adapts or learning_rate is None or momentum is None:
        curvature = sampled.bends(direction, state.velocity)
        model = plane(grad, direction, state.velocity, curvature, damping)
        learning_rate, momentum = lowest(model, learning_rate, momentum)
        promised = promise(model, learning_rate, momentum) if adapts else None

    def moved(d: Array, v: Array) -> Array:
        return (learning_rate * d + momentum * v).astype(v.dtype)

    return jax.tree.map(moved, direction, state.velocity), promised


def _proposal(
    value_fn: ValueFunction,
    params: PyTree,
    value: Array,
    grad: PyTree,
    velocity: PyTree,
    promised: Array | None,
) -> Proposal:
    """The step of a velocity; its value is looked at where the model promises something."""
    step = jax.tree.map(lambda v, g: v.astype(g.dtype), velocity, grad)
    ok = solvers.all_finite((velocity, step))
    if promised is None:
        return Proposal(step, None, jnp.zeros(()), ok)
    reached = value_fn(optax.apply_updates(params, step))
    return Proposal(step, reached, solvers.over(value - reached, promised), ok)
