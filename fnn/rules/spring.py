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
from fnn.rules.trials import Info, info_after, no_info, where_accepted


class SpringState(NamedTuple):
    """What SPRING remembers.

    Attributes:
        last: The last step that was solved, before the learning rate.
        info: What came of the steps; rejected are those that are not finite.
        rest: What rounding kept from the parameters, to be taken with a later step; None for
            parameters of single precision or more.
    """

    last: PyTree
    info: Info
    rest: PyTree = None


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
            default suits networks whose parameters are of order 1. Steps are shortened where the
            norm of the updates equals `max_norm`: if all are and the value falls, more may be
            faster; if it jumps, try less.
        solver: None chooses by counted cost, `solvers.automatic`.
        memory_budget: bytes that the automatic choice may use, and, whatever the solver, a tile of
            the Gram matrix or a block of the Jacobian; at least 1.

    Units:
        `learning_rate` is 1, `damping` loss / params^2, `max_norm` params.

    Invariant:
        The path does not change under rotations of the parameters. When all parameters are measured
        in another unit it does, unless `damping` and `max_norm` are measured in it, too.

    Returns:
        A rule; its state is a `SpringState`.

    Source:
        Goldshlager, Abrahamsen and Lin (2024), "A Kaczmarz-inspired approach to accelerate the
        optimization of neural network wavefunctions", algorithm 1, arXiv:2401.10190.

    Differs:
        The source is about wave functions: its rows are centered, and its Gram matrix is made
        regular along the constant row; here the rows are those of any loss. Penalties and
        transformed gradients are added to what is minimized. The source bounds the squared norm,
        by 1e-3; its root is 0.03, and the default of `max_norm` is ten times that (see `LONGEST`).

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
        dtypes = map(jnp.result_type, jax.tree.leaves(params))
        is_half = any(jnp.finfo(dtype).bits < 32 for dtype in dtypes)
        rest = jax.tree.map(_wide_zeros, params) if is_half else None
        return SpringState(optax.tree.zeros_like(params), info, rest)

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
        step = where_accepted(ok, step)
        counts = solution.counts._replace(rejected=(~ok).astype(jnp.int32))

        rate = now(learning_rate, state.info.steps)
        if max_norm is not None:
            length = rate * optax.tree.norm(step)
            shortened = rate * max_norm / jnp.where(length > 0, length, 1)
            rate = jnp.where(length > max_norm, shortened, rate)
        rest = state.rest
        if rest is None:
            updates = optax.tree.scale(rate, step)
        else:
            updates = optax.tree.scale(rate, jax.tree.map(wide, step))
            updates, rest = _rounded(params, updates, rest)
            updates = where_accepted(ok, updates)
        counts = jax.tree.map(jnp.add, state.info.counts, counts)
        return updates, SpringState(
            last=_either(ok, step, state.last),
            info=info_after(state.info, ok, counts=counts),
            rest=_either(ok, rest, state.rest),
        )

    return second_order(init, update)


def _either(ok: Array, new: PyTree, old: PyTree) -> PyTree:
    """The new tree where a step is taken, else the old one."""
    return jax.tree.map(lambda one, other: jnp.where(ok, one, other), new, old)


def _wide_zeros(leaf: Array) -> Array:
    """Zeros of a leaf's shape, in at least single precision."""
    return wide(jnp.zeros_like(leaf))


def _rounded(params: PyTree, updates: PyTree, rest: PyTree) -> tuple[PyTree, PyTree]:
    """The updates with what was left of earlier ones, and what rounding leaves of them now."""

    def whole(update: Array, left: Array) -> Array:
        return (update + left).astype(left.dtype)  # rates may be wider

    def left_of(leaf: Array, wanted: Array) -> Array:
        before = wide(leaf)
        after = _as_if(before + _as_if(wanted, leaf.dtype), leaf.dtype)
        return wanted - (after - before)

    wanted = jax.tree.map(whole, updates, rest)
    taken = jax.tree.map(lambda number, leaf: number.astype(leaf.dtype), wanted, params)
    return taken, jax.tree.map(left_of, params, wanted)


def _as_if(number: Array, dtype: Any) -> Array:
    """A number rounded to a dtype, in its own: the compiler may leave out a cast there and back."""
    kind = jnp.finfo(dtype)
    normal = jax.lax.reduce_precision(number, kind.nexp, kind.nmant)
    if kind.nexp == jnp.finfo(number.dtype).nexp:
        return normal
    # A dtype of fewer exponents has numbers below its least normal one, which are taken for 0 here.
    quantum = float(kind.smallest_subnormal)
    small = jnp.round(number / quantum) * quantum
    return jnp.where(jnp.abs(number) < float(kind.tiny), small, normal)


def _with_origin(
    system: solvers.System, rhs: solvers.RightHandSide, step: PyTree
) -> solvers.RightHandSide:
    """The right-hand side of the same model, its origin moved to `step`."""
    s, h, *_ = rhs
    if s is not None and system.product is not None:
        s = s + system.product(step)
    if system.penalty is not None:
        weighted = optax.tree.mul(solvers.spread(system, system.penalty), step)
        h = weighted if h is None else optax.tree.add(h, weighted)
    return solvers.RightHandSide(s, h)
