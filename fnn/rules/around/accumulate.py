"""Accumulation: one exact Gauss-Newton step from many batches."""

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
from fnn.rules.contract import (
    Scalar,
    Schedule,
    aligned,
    fitting,
    rates,
    same_size,
    within,
)
from fnn.rules.second_order import now, second_order, state_dtype


class AccumulateState(NamedTuple):
    """What an accumulated step remembers.

    Attributes:
        steps: Steps taken, one for every k batches.
        batches: Batches seen since the last.
        weight: Examples in them.
        grad: The sum of their gradients.
        curvature: The sum of their Gauss-Newton matrices, in the order of
            `jax.flatten_util.ravel_pytree`.
        counts: What the solver did, rejected steps among it.
    """

    steps: Int[Array, ""]
    batches: Int[Array, ""]
    weight: Float[Array, ""]
    grad: PyTree
    curvature: Float[Array, "P P"]
    counts: solvers.Counts


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
    rates("accumulate", learning_rate=learning_rate, damping=damping)
    within("accumulate", 1, math.inf, memory_budget=memory_budget)

    def init(params: PyTree) -> AccumulateState:
        dtype = state_dtype(params)
        size = sum(map(jnp.size, jax.tree.leaves(params)))
        fitting("accumulate", size, dtype, memory_budget, "gauss_newton() on larger batches")
        number = jnp.zeros((), jnp.int32)
        return AccumulateState(
            steps=number,
            batches=number,
            weight=jnp.zeros((), dtype),
            grad=optax.tree.zeros_like(params, dtype=dtype),
            curvature=jnp.zeros((size, size), dtype),
            counts=solvers.Counts.of(),
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
        flat, _ = ravel_pytree(params)
        aligned(updates, state.grad, "state")
        same_size(state.curvature, flat.size)
        operator = gauss_newton(value_fn, params, memory_budget=memory_budget)
        count = _examples(value_fn).astype(state.weight.dtype)
        weight = state.weight + count
        grad = jax.tree.map(
            lambda total, g: total + count * g.astype(total.dtype), state.grad, updates
        )
        curvature = state.curvature + (count * operator.dense()).astype(state.curvature.dtype)
        rate, extra = now(learning_rate, state.steps), now(damping, state.steps)

        def solve() -> tuple[PyTree, solvers.Counts]:
            mean, unravel = ravel_pytree(optax.tree.scale(1 / weight, grad))
            matrix = curvature / weight
            system = solvers.System(
                like=jax.tree.map(lambda g: jax.ShapeDtypeStruct(g.shape, g.dtype), grad),
                multiply=lambda v: unravel(matrix @ ravel_pytree(v)[0]),
                normal=lambda: matrix,
            )
            rhs = solvers.RightHandSide(None, unravel(mean))
            solution = solvers.primal().solve(system, rhs, extra)
            return solution.step, solution.counts

        due = state.batches + 1 >= k
        none = optax.tree.zeros_like(grad), solvers.Counts.of()
        step, counts = where_due(due, solve, none)
        return optax.tree.scale(rate, step), AccumulateState(
            steps=state.steps + due.astype(jnp.int32),
            batches=jnp.where(due, 0, state.batches + 1),
            weight=jnp.where(due, 0, weight),
            grad=jax.tree.map(lambda total: jnp.where(due, 0, total), grad),
            curvature=jnp.where(due, 0, curvature),
            counts=jax.tree.map(jnp.add, state.counts, counts),
        )

    return second_order(init, update)


# Of the batches in a value function; 1 if it has none.
def _examples(value_fn: ValueFunction) -> Array:
    blocks = [term.block for term in value_fn.terms if isinstance(term.block, Block)]
    counts = [block.count if block.weights is None else block.weights.sum() for block in blocks]
    return jnp.asarray(sum(counts) if counts else 1)
