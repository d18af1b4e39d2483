"""Accumulation: one exact Gauss-Newton step from many batches."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PyTree

from fnn import solvers
from fnn.branches import where_due
from fnn.curvature import gauss_newton
from fnn.interned import interned
from fnn.objective import Block, ValueFunction
from fnn.products import dot
from fnn.rules.contract import (
    Scalar,
    Schedule,
    now,
    require_aligned,
    require_fit,
    require_rates,
    require_same_size,
    require_within,
    second_order,
    state_dtype,
)
from fnn.rules.trials import Info, info_after, no_info


class AccumulateState(NamedTuple):
    """What an accumulated step remembers.

    Attributes:
        batches: Batches since the last step.
        weight: Examples in them.
        grad: The sum of their gradients.
        curvature: The sum of their Gauss-Newton matrices, in the order of
            `jax.flatten_util.ravel_pytree`.
        info: What came of the steps, one for every k batches; rejected are those that are not
            finite.
    """

    batches: Int[Array, ""]
    weight: Float[Array, ""]
    grad: PyTree
    curvature: Float[Array, "P P"]
    info: Info


@interned
def accumulate(
    k: int,
    learning_rate: Scalar | Schedule = 1.0,
    damping: Scalar | Schedule = 0.0,
    memory_budget: int = 2**30,
) -> optax.GradientTransformationExtraArgs:
    """The Gauss-Newton step of k batches at once, u = -learning_rate (A^T A + damping)^-1 g.

    A^T A and g are means over all examples of the batches, each batch weighted by its number of
    examples (the sum of their weights), so that the step is `gauss_newton`'s for all of them in one
    batch, padding and penalties included. In the k - 1 updates before it the parameters must stay
    as they are, and do: those updates are zero.

    For data that come from a loader. Where they are arrays, `objective.on(data, chunk=n)` makes the
    same sums inside one update, with every solver and every rule. This one is primal: its state is
    P x P numbers, each batch costs its own P x P matrix, and the k-th a factorization.

    Args:
        k: batches in a step, at least 1; as many as an epoch has, for all the data.
        learning_rate: 1 is the whole step; at least 0; or a schedule of the steps taken.
        damping: added to all eigenvalues, at least 0; or a schedule of the steps taken.
        memory_budget: bytes that the matrix in the state may take, and a tile of a matrix while it
            is made; at least 1.

    Units:
        `learning_rate` is 1, `damping` loss / params^2.

    Invariant:
        The path does not change under rotations of the parameters, nor with the order of the
        batches, nor the cut of the examples into batches; undamped, neither under any invertible
        affine map nor when the loss is scaled.

    Returns:
        A rule; its state is an `AccumulateState`.

    Raises:
        ValueError: if k is less than 1. (Its update raises a TypeError for a `value_fn` that is a
            bare function.)

    Source:
        Nocedal and Wright, Numerical Optimization (2006), section 10.3.

    Example:
        >>> import fnn
        >>> line = fnn.Objective(lambda w, x: w * x[0] - x[1])  # a residual
        >>> rule, w = accumulate(2), jnp.array(0.0)
        >>> state = rule.init(w)
        >>> for example in ([1.0, 2.0], [2.0, 4.0]):
        ...     value_fn = line.on(jnp.array([example]))
        ...     u, state = rule.update(jax.grad(value_fn)(w), state, w, value_fn=value_fn)
        ...     print(u.round(4))
        0.0
        2.0
    """
    if k < 1:
        raise ValueError(f"accumulate: expected k >= 1, got {k}; try 1")
    require_rates("accumulate", learning_rate=learning_rate, damping=damping)
    require_within("accumulate", 1, math.inf, memory_budget=memory_budget)

    def init(params: PyTree) -> AccumulateState:
        dtype = state_dtype(params)
        size = sum(map(jnp.size, jax.tree.leaves(params)))
        require_fit("accumulate", size, dtype, memory_budget, "gauss_newton() on larger batches")
        return AccumulateState(
            batches=jnp.zeros((), jnp.int32),
            weight=jnp.zeros((), dtype),
            grad=optax.tree.zeros_like(params, dtype=dtype),
            curvature=jnp.zeros((size, size), dtype),
            info=no_info(jnp.float32, looks=False, gain=False),
        )

    def update(
        updates: PyTree,
        state: AccumulateState,
        params: PyTree,
        *,
        value_fn: ValueFunction,
        **extra_args: Any,
    ) -> tuple[PyTree, AccumulateState]:
        del extra_args
        require_aligned(updates, state.grad, "state")
        require_same_size(state.curvature, ravel_pytree(params)[0].size)
        operator = gauss_newton(value_fn, params, memory_budget=memory_budget)
        state = _with_batch(state, updates, operator.dense(), _examples(value_fn))
        rate, shift = now(learning_rate, state.info.steps), now(damping, state.info.steps)
        is_due = state.batches >= k
        none = optax.tree.zeros_like(state.grad), jnp.zeros((), bool), solvers.Counts.of()
        step, ok, counts = where_due(is_due, functools.partial(_solve, state, shift), none)
        return optax.tree.scale(rate, step), _after(state, is_due, ok, counts)

    return second_order(init, update)


def _with_batch(
    state: AccumulateState, grad: PyTree, curvature: Array, examples: Array
) -> AccumulateState:
    """The state with the sums of one more batch in it."""
    count = examples.astype(state.weight.dtype)
    return state._replace(
        batches=state.batches + 1,
        weight=state.weight + count,
        grad=jax.tree.map(lambda total, g: total + count * g.astype(total.dtype), state.grad, grad),
        curvature=state.curvature + (count * curvature).astype(state.curvature.dtype),
    )


def _solve(state: AccumulateState, damping: Scalar) -> tuple[PyTree, Array, solvers.Counts]:
    """The step of all batches since the last, whether it is finite, and what the solver did."""
    mean, unravel = ravel_pytree(optax.tree.scale(1 / state.weight, state.grad))
    matrix = state.curvature / state.weight
    system = solvers.System(
        like=jax.tree.map(lambda g: jax.ShapeDtypeStruct(g.shape, g.dtype), state.grad),
        multiply=lambda v: unravel(dot(matrix, ravel_pytree(v)[0])),
        normal=lambda: matrix,
    )
    rhs = solvers.RightHandSide(None, unravel(mean))
    solution = solvers.primal().solve(system, rhs, damping)
    return solution.step, solution.ok, solution.counts


def _after(
    state: AccumulateState, is_due: Array, ok: Array, counts: solvers.Counts
) -> AccumulateState:
    """The state after an update, without its sums where they were solved for."""
    trials, total = is_due.astype(jnp.int32), jax.tree.map(jnp.add, state.info.counts, counts)
    info = info_after(state.info, ok, trials, counts=total)
    return AccumulateState(
        batches=jnp.where(is_due, 0, state.batches),
        weight=jnp.where(is_due, 0, state.weight),
        grad=jax.tree.map(lambda sums: jnp.where(is_due, 0, sums), state.grad),
        curvature=jnp.where(is_due, 0, state.curvature),
        info=info._replace(steps=state.info.steps + trials),
    )


def _examples(value_fn: ValueFunction) -> Array:
    """The examples in the batches of a value function; 1 if it has none."""
    blocks = [term.block for term in value_fn.terms if isinstance(term.block, Block)]
    counts = [block.count if block.weights is None else block.weights.sum() for block in blocks]
    return jnp.asarray(sum(counts) if counts else 1)
