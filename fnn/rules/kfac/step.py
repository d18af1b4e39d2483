"""What K-FAC and EKFAC share: running factors, their eigenvectors, and the step (see `kfac`).

A *measure* says what the curvature along the eigenvectors is; it is all that the two differ in.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.custom_batching import sequential_vmap
from jaxtyping import Array, Bool, Float, Int, PyTree

from fnn import solvers
from fnn.curvature import Blocks, Factors, Structure, kronecker_blocks
from fnn.objective import ValueFunction
from fnn.rules.contract import Scalar, Schedule, aligned, rates, within
from fnn.rules.damping import (
    Damping,
    first_damping,
    is_at_maximum,
    next_damping,
    trust_ratio,
)
from fnn.rules.kfac.two_step_sizes import lowest, plane, promise
from fnn.rules.second_order import differ, is_lower, now, second_order, state_dtype

_HIGHEST = jax.lax.Precision.HIGHEST


class Block(NamedTuple):
    """What is remembered of a leaf with Kronecker factors.

    Attributes:
        factors: A and D, means over the batches.
        basis: the eigenvectors that they had at the last refresh.
        curvature: along them. Of `kfac` the eigenvalues at the last refresh, (b, i) and (b, o); of
            `ekfac` the moments, means over the batches, (b, i, o).
    """

    factors: Factors
    basis: Factors
    curvature: Any


class KroneckerState(NamedTuple):
    """What `kfac` and `ekfac` remember.

    Attributes:
        steps: Updates so far.
        accepted: Those that moved the parameters.
        rejected: Those that did not.
        batches: How many are part of the means; the others had a curvature that is not finite.
        damping: For the next update.
        growth: What a rejection would multiply it by.
        unit: The norm of the largest block at the start, in which the damping's bounds are
            measured; 0 until a finite one is seen.
        gain: Gain ratio of the last update; 0 with a damping that does not change.
        stalled: Whether the damping arrived at its maximum: no step lowers the value.
        velocity: The last movement; 0 after a rejection.
        blocks: By the path of each leaf that has factors.
        diagonals: By the path of each other leaf, the diagonal of its Gauss-Newton block.
    """

    steps: Int[Array, ""]
    accepted: Int[Array, ""]
    rejected: Int[Array, ""]
    batches: Int[Array, ""]
    damping: Float[Array, ""]
    growth: Float[Array, ""]
    unit: Float[Array, ""]
    gain: Float[Array, ""]
    stalled: Bool[Array, ""]
    velocity: PyTree
    blocks: dict[str, Block]
    diagonals: dict[str, Array]


class Measure(NamedTuple):
    """What the curvature of a block along its eigenvectors is.

    Attributes:
        zeros: `(b, i, o), dtype -> curvature` before the first batch.
        refreshed: `block, basis, eigenvalues -> curvature` along new eigenvectors.
        inverse: `curvature, damping -> (b, i, o)`.
        moments: whether it is a mean of moments, measured in every step.
    """

    zeros: Callable[[tuple[int, int, int], Any], Any]
    refreshed: Callable[[Block, Factors, tuple[Array, Array]], Any]
    inverse: Callable[[Any, Array], Float[Array, "b i o"]]
    moments: bool


def kronecker(
    name: str,
    measure: Measure,
    structure: Structure,
    learning_rate: Scalar | Schedule | None,
    damping: Scalar | Schedule | None,
    decay: Scalar,
    momentum: Scalar | None,
    policy: Damping | None,
    refresh: int,
    samples: int | None,
    examples: int | None,
    memory_budget: int,
) -> optax.GradientTransformationExtraArgs:
    """The rule of a measure.

    Args:
        name: of the rule, for errors.
        measure: of curvature.
        structure: see `kfac`, as all that follow.
        learning_rate: number, schedule or None.
        damping: number, schedule or None.
        decay: number.
        momentum: number or None.
        policy: of the damping, or None.
        refresh: steps.
        samples: of each example's rows, or None.
        examples: of the batch, or None.
        memory_budget: bytes.

    Returns:
        The rule.

    Raises:
        TypeError: if `structure` is none.
    """
    if not isinstance(structure, Structure):
        raise TypeError(
            f"{name}: expected a structure, got {type(structure).__name__}; try "
            "curvature.structure(model, params, x) with one example x"
        )
    scheduled = {"learning_rate": learning_rate, "damping": damping}
    rates(name, **{key: number for key, number in scheduled.items() if number is not None})
    within(name, 0, 1, decay=decay, **({} if momentum is None else {"momentum": momentum}))
    within(name, 1, math.inf, refresh=refresh, memory_budget=memory_budget)
    drawn = {"samples": samples, "examples": examples}
    within(name, 1, math.inf, **{key: count for key, count in drawn.items() if count is not None})
    # A damping that is nothing beside rounding would leave the model to stale directions.
    policy = trust_ratio(1.5, 2 / 3, minimum=1e-6) if policy is None else policy
    adapts = policy.shrink is not None
    looks = adapts or learning_rate is None or momentum is None

    def init(params: PyTree) -> KroneckerState:
        dtype = state_dtype(params)
        count, number = jnp.zeros((), jnp.int32), jnp.zeros((), dtype)
        blocks, diagonals = {}, {}
        for path, shape, matrix in structure.leaves:
            if matrix is None:
                diagonals[path] = jnp.zeros(shape, dtype)
                continue
            b, *sizes = matrix
            zeros = (jnp.zeros((b, n, n), dtype) for n in sizes)
            basis = (jnp.tile(jnp.eye(n, dtype=dtype), (b, 1, 1)) for n in sizes)
            blocks[path] = Block(Factors(*zeros), Factors(*basis), measure.zeros(matrix, dtype))
        return KroneckerState(
            steps=count,
            accepted=count,
            rejected=count,
            batches=count,
            damping=number,
            growth=number,
            unit=number,
            gain=number,
            stalled=jnp.zeros((), bool),
            velocity=jax.tree.map(lambda leaf: jnp.zeros(jnp.shape(leaf), dtype), params),
            blocks=blocks,
            diagonals=diagonals,
        )

    def update(
        updates: PyTree,
        state: KroneckerState,
        params: PyTree,
        *,
        value: Float[Array, ""],
        value_fn: ValueFunction,
        **extra_args: Any,
    ) -> tuple[PyTree, KroneckerState]:
        del extra_args
        aligned(updates, state.velocity, "state")
        key, seen = jax.random.fold_in(jax.random.key(0), state.steps), value_fn
        if examples is not None:
            seen = value_fn.sample(jax.random.fold_in(key, 1), examples)
        made = kronecker_blocks(
            seen,
            params,
            structure,
            key=None if samples is None else key,
            samples=samples or 1,
            memory_budget=memory_budget,
        )
        sound = solvers.all_finite((made.factors, made.diagonals))
        batches = state.batches + sound.astype(jnp.int32)
        weight = (1 - decay) / (1 - jnp.power(decay, jnp.maximum(batches, 1).astype(float)))

        def mean(old: PyTree, new: PyTree) -> PyTree:
            return jax.tree.map(
                lambda o, n: jnp.where(
                    sound, o + (weight * (n - o).astype(weight.dtype)).astype(o.dtype), o
                ),
                old,
                new,
            )

        diagonals = {path: mean(state.diagonals[path], new) for path, new in made.diagonals.items()}
        blocks = {}
        for path, new in made.factors.items():
            block = state.blocks[path]
            blocks[path] = block._replace(factors=mean(block.factors, new))
        blocks = _refreshing(measure)(sound & (state.batches % refresh == 0), blocks)
        if measure.moments:
            moments = made.moments({path: block.basis for path, block in blocks.items()})
            for path, block in blocks.items():
                blocks[path] = block._replace(curvature=mean(block.curvature, moments[path]))

        unit = jnp.where(state.unit > 0, state.unit, jnp.where(sound, _unit(made), 0))
        given = None if damping is None else now(damping, state.steps)
        trust = first_damping(policy, given, state.damping, state.unit, unit)
        step = _step(measure, made, blocks, diagonals, updates, trust)

        rate, keep = None if learning_rate is None else now(learning_rate, state.steps), momentum
        model = None
        if looks:
            bend = made.bends(step, state.velocity)
            model = plane(updates, step, state.velocity, bend, trust)
            rate, keep = lowest(model, rate, keep)
        velocity = jax.tree.map(
            lambda d, v: (rate * d + keep * v).astype(v.dtype), step, state.velocity
        )
        moved = jax.tree.map(lambda v, g: v.astype(g.dtype), velocity, updates)
        ok, gain = sound & solvers.all_finite((velocity, moved)), jnp.zeros_like(unit)
        if model is not None and adapts:
            after = optax.apply_updates(params, moved)
            reached = value_fn(after)
            gain = solvers.over(value - reached, promise(model, rate, keep)).astype(unit.dtype)
            ok &= is_lower(reached, value) & differ(after, params)
        growth = jnp.where(state.unit > 0, state.growth, policy.increase).astype(unit.dtype)
        trust, growth = next_damping(policy, gain, ok, trust, growth, unit)

        def taken(tree: PyTree) -> PyTree:  # a rejected step ends its velocity too
            return jax.tree.map(lambda leaf: jnp.where(ok, leaf, 0), tree)

        return taken(moved), KroneckerState(
            steps=state.steps + 1,
            accepted=state.accepted + ok.astype(jnp.int32),
            rejected=state.rejected + (~ok).astype(jnp.int32),
            batches=batches,
            damping=trust,
            growth=growth,
            unit=unit,
            gain=gain,
            stalled=~ok & is_at_maximum(policy, trust, unit),
            velocity=taken(velocity),
            blocks=state.blocks | blocks,
            diagonals=state.diagonals | diagonals,
        )

    return second_order(init, update)


def inverse(curvature: Array, damping: Array) -> Array:
    """1 / (curvature + damping), 0 where that is 0 to rounding.

    Args:
        curvature: at least 0.
        damping: added to it; of a shape that broadcasts.

    Returns:
        The inverse, so that without damping it is that of the pseudo-inverse.
    """
    total = curvature + damping
    rounding = max(total.shape, default=1) * jnp.finfo(total.dtype).eps
    return solvers.positive(total, rounding * jnp.max(total, initial=0))


def times(*factors: Array) -> Array:
    """A product of matrices in full precision.

    Args:
        *factors: from left to right.

    Returns:
        The product.
    """
    return functools.reduce(functools.partial(jnp.matmul, precision=_HIGHEST), factors)


# Eigenvectors where they are due; one at a time even in the lanes of a vmap (see `solvers.ladder`).
@functools.cache
def _refreshing(measure: Measure) -> Callable[[Array, dict[str, Block]], dict[str, Block]]:
    def anew(block: Block) -> Block:
        (inputs, u), (outputs, v) = map(_eigen, block.factors)
        basis = Factors(u, v)
        curvature = measure.refreshed(block, basis, (inputs, outputs))
        found, new = (
            solvers.all_finite((basis, curvature)),
            block._replace(basis=basis, curvature=curvature),
        )
        return jax.tree.map(lambda n, o: jnp.where(found, n, o), new, block)

    @jax.jit
    @sequential_vmap
    def refreshed(due: Array, blocks: dict[str, Block]) -> dict[str, Block]:
        def all_anew() -> dict[str, Block]:
            return {path: anew(block) for path, block in blocks.items()}

        return jax.lax.cond(due, all_anew, lambda: blocks)

    return refreshed


def _eigen(factor: Float[Array, "b n n"]) -> tuple[Float[Array, "b n"], Float[Array, "b n n"]]:
    if factor.shape[-1] == 1:
        return factor[..., 0], jnp.ones_like(factor)
    values, vectors = jax.lax.map(lambda matrix: tuple(jnp.linalg.eigh(matrix)), factor)
    return jnp.maximum(values, 0), vectors


# The step of every leaf by itself.
def _step(
    measure: Measure,
    made: Blocks,
    blocks: dict[str, Block],
    diagonals: dict[str, Array],
    grad: PyTree,
    damping: Array,
) -> PyTree:
    steps = {}
    for path, g in made.matrices(grad).items():
        shift = damping + made.penalty[path]
        if path in diagonals:
            steps[path] = -g * inverse(diagonals[path], shift)
        else:
            _, (u, v), curvature = blocks[path]
            steps[path] = -times(u, measure.inverse(curvature, shift) * times(u.mT, g, v), v.mT)
    return made.tree(steps)


# The norm of the largest block, 1 where there is none; rotations do not change it.
def _unit(made: Blocks) -> Array:
    found = [jnp.max(diagonal, initial=0) for diagonal in made.diagonals.values()]
    for factors in made.factors.values():
        inputs, outputs = (jnp.linalg.norm(factor, axis=(1, 2)) for factor in factors)
        found.append(jnp.max(inputs * outputs))
    unit = functools.reduce(jnp.maximum, found)
    return jnp.where(unit > 0, unit, 1)
