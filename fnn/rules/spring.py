"""SPRING: the Gauss-Newton step nearest to the last one, for small random batches."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from fnn import solvers
from fnn.dtypes import wide
from fnn.objective import ValueFunction
from fnn.rules.contract import (
    Scalar,
    Schedule,
    interned_rule,
    now,
    require_aligned,
    require_rates,
    require_within,
    second_order,
)
from fnn.rules.gauss_newton import quadratic
from fnn.rules.trials import Info, info_after, no_info


class SpringState(NamedTuple):
    """What SPRING remembers.

    Attributes:
        last: The last step that was solved, before the learning rate.
        untaken: What rounding kept from the parameters, to be taken with a later step; None for
            parameters of single precision or more.
        info: What came of the steps; rejected are those that are not finite.
    """

    last: PyTree
    info: Info
    untaken: PyTree = None


LONGEST = 0.3
"""The longest update unless told: 1 still diverged on Helmholtz' equation, and 0.03 crept.

Measured with networks 2-32-1 and 2-64-1 for Poisson's equation, 2-32-32-1 and 2-64-64-1 for
Helmholtz', by 300 steps on new points, at rates from 0.02 to 0.5, two or three seeds each."""


@interned_rule
def spring(
    learning_rate: Scalar | Schedule,
    damping: Scalar | Schedule = 1e-3,
    decay: Scalar = 0.99,
    max_norm: Scalar | None = LONGEST,
    solver: solvers.Solver | None = None,
    memory_budget: int = 2**30,
) -> optax.GradientTransformationExtraArgs:
    """Subsampled projected-increment natural gradient descent, u = learning_rate d.

        d = the least of |A d + s|^2 + damping |d - decay last|^2
          = decay last - A^T (A A^T + damping)^-1 (s + decay A last)
        last = d

    Of the parameters, a small batch determines only as many combinations as it has rows. Along
    those the step is the damped Gauss-Newton step of the batch; along all others it keeps what
    earlier batches have found. With `decay` 0 it is the damped Gauss-Newton step of least norm. The
    dual solver, which the automatic choice takes for few rows, forms nothing but the Gram matrix.

    A step that is not finite is a step of zero, counted in `state.info.rejected`; what was
    remembered stays. Of parameters in half precision small updates would be lost, and what is left
    of the others would lead elsewhere, step after step: the rest is kept and taken later.

    Args:
        learning_rate: of the whole step; at least 0; or a schedule.
        damping: at least 0; or a schedule.
        decay: how much of the last step is kept where the batch says nothing, in [0, 1).
        max_norm: the longest update, at least 0: longer ones are shortened to it. None leaves them
            as they are; then a batch that says little of a direction, and the memory of it, can
            lead far away: equations of second order diverged so at every rate from 0.02. The
            default suits networks whose parameters are of order 1; where the value falls by steps
            that are all shortened, more may be faster, and where it jumps, less.
        solver: None chooses by counted cost, `solvers.automatic`.
        memory_budget: bytes that the automatic choice may use, and, whatever the solver, a tile of
            the Gram matrix or a block of the Jacobian; at least 1.

    Units:
        `learning_rate` is 1, `damping` loss / params^2, `max_norm` params.

    Invariant:
        The path does not change under rotations of the parameters.

    Returns:
        A rule; its state is a `SpringState`.

    Source:
        Goldshlager, Abrahamsen and Lin (2024), "A Kaczmarz-inspired approach to accelerate the
        optimization of neural network wavefunctions", algorithm 1, arXiv:2401.10190.

    Differs:
        The source is about wave functions: its rows are centered, and its Gram matrix is made
        regular along the constant row; here the rows are those of any loss. Penalties and
        transformed gradients are added to what is minimized. `max_norm` is the root of the source's
        norm constraint, 1e-3 there (0.03 here).

    Example:
        >>> import fnn
        >>> plane = fnn.Objective(lambda w, x: jnp.dot(w, x[:2]) - x[2])  # a residual
        >>> rule, w = spring(1.0, damping=1e-6, max_norm=None), jnp.zeros(2)
        >>> @jax.jit
        ... def step(state, row):
        ...     value_fn = plane.on(row[None])
        ...     grad = jax.grad(value_fn)(w)
        ...     return rule.update(grad, state, w, grad=grad, value_fn=value_fn)
        >>> u, state = step(rule.init(w), jnp.array([1.0, 0.0, 2.0]))  # says w[0] = 2
        >>> u, state = step(state, jnp.array([0.0, 1.0, 3.0]))  # says w[1] = 3
        >>> print(u.round(1))
        [2. 3.]
    """
    require_rates("spring", learning_rate=learning_rate, damping=damping)
    require_within("spring", 0, 1, decay=decay)
    require_within("spring", 1, math.inf, memory_budget=memory_budget)
    if max_norm is not None:
        require_within("spring", 0, math.inf, max_norm=max_norm)
    solve = solvers.automatic(memory_budget) if solver is None else solver

    def init(params: PyTree) -> SpringState:
        info = no_info(jnp.float32, looks=False, gain=False)
        is_half = any(jnp.finfo(leaf.dtype).bits < 32 for leaf in jax.tree.leaves(params))
        untaken = jax.tree.map(_wide_zeros, params) if is_half else None
        return SpringState(optax.tree.zeros_like(params), info, untaken)

    def update(
        updates: PyTree,
        state: SpringState,
        params: PyTree,
        *,
        grad: PyTree,
        value_fn: ValueFunction,
        **extra_args: Any,
    ) -> tuple[PyTree, SpringState]:
        del extra_args
        require_aligned(updates, state.last, "state")
        _, system, rhs = quadratic(value_fn, params, updates, grad, memory_budget)
        last = jax.tree.map(lambda leaf: (decay * leaf).astype(leaf.dtype), state.last)
        solution = solve.solve(
            system, _with_origin(system, rhs, last), now(damping, state.info.steps)
        )
        step = optax.tree.add(last, solution.step)
        ok = solution.ok & jnp.isfinite(optax.tree.norm(step))
        step = jax.tree.map(lambda leaf: jnp.where(ok, leaf, 0), step)
        counts = solution.counts._replace(rejected=(~ok).astype(jnp.int32))

        rate = now(learning_rate, state.info.steps)
        if max_norm is not None:
            length = rate * optax.tree.norm(step)
            shortened = rate * max_norm / jnp.where(length > 0, length, 1)
            rate = jnp.where(length > max_norm, shortened, rate)
        updates, untaken = optax.tree.scale(rate, step), state.untaken
        if untaken is not None:
            updates, untaken = _rounded(params, updates, untaken)
        return updates, SpringState(
            untaken=untaken,
            last=jax.tree.map(lambda new, old: jnp.where(ok, new, old), step, state.last),
            info=info_after(
                state.info, ok, counts=jax.tree.map(jnp.add, state.info.counts, counts)
            ),
        )

    return second_order(init, update)


def _wide_zeros(leaf: Array) -> Array:
    """Zeros of a leaf's shape, in at least single precision."""
    return wide(jnp.zeros_like(leaf))


def _rounded(params: PyTree, updates: PyTree, untaken: PyTree) -> tuple[PyTree, PyTree]:
    """The updates with what was left of earlier ones, and what rounding leaves of them now."""

    def rounded(number: Array, dtype: Any) -> Array:
        kind = jnp.finfo(dtype)
        # A cast there and back is one that the compiler may leave out.
        return jax.lax.reduce_precision(number, kind.nexp, kind.nmant)

    def whole(update: Array, rest: Array) -> Array:
        return (wide(update) + rest).astype(rest.dtype)  # rates may be wider

    def left(leaf: Array, wanted: Array) -> Array:
        before = wide(leaf)
        after = rounded(before + rounded(wanted, leaf.dtype), leaf.dtype)
        return wanted - (after - before)

    wanted = jax.tree.map(whole, updates, untaken)
    cast = jax.tree.map(lambda number, leaf: number.astype(leaf.dtype), wanted, params)
    return cast, jax.tree.map(left, params, wanted)


def _with_origin(
    system: solvers.System, rhs: solvers.RightHandSide, step: PyTree
) -> solvers.RightHandSide:
    """The right-hand side of the same model, its origin moved to `step`."""
    s, h, _ = rhs
    if s is not None and system.product is not None:
        s = s + system.product(step)
    if system.penalty is not None:
        weighted = optax.tree.mul(solvers.spread(system, system.penalty), step)
        h = weighted if h is None else optax.tree.add(h, weighted)
    return solvers.RightHandSide(s, h)
