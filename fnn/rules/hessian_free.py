"""Hessian-free optimization: Gauss-Newton steps from products with the curvature alone."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from fnn import solvers
from fnn.branches import where_due
from fnn.curvature import gauss_newton_system
from fnn.interned import interned
from fnn.objective import ValueFunction
from fnn.rules.contract import Scalar, Schedule, aligned, rates, within
from fnn.rules.damping import Damping, first_damping, is_at_maximum, next_damping, trust_ratio
from fnn.rules.second_order import differ, is_lower, now, second_order, state_dtype

SLOPE = 1e-2
"""An accepted step lowers the value by at least this part of what its slope says (Armijo)."""

HALVINGS = 10
"""The most times that a step is halved before it is rejected."""


class HessianFreeState(NamedTuple):
    """What Hessian-free optimization remembers.

    Attributes:
        steps: Updates, accepted or not.
        accepted: Steps accepted, at their whole length or shortened.
        rejected: Steps rejected.
        damping: For the next step.
        growth: What a rejection would multiply it by.
        unit: The curvature along the gradient at the start, in which the damping's bounds are
            measured; 0 until a finite one is seen.
        last: Where the last conjugate gradients ended.
        value: Of the parameters that the last update led to.
        gain: Gain ratio of the last step at its whole length.
        stalled: Whether the damping arrived at its maximum: no step lowers the value.
        products: With the Gauss-Newton matrix.
        evaluations: Of the value function, to judge steps.
    """

    steps: Int[Array, ""]
    accepted: Int[Array, ""]
    rejected: Int[Array, ""]
    damping: Float[Array, ""]
    growth: Float[Array, ""]
    unit: Float[Array, ""]
    last: PyTree
    value: Float[Array, ""]
    gain: Float[Array, ""]
    stalled: Bool[Array, ""]
    products: Int[Array, ""]
    evaluations: Int[Array, ""]


@interned
def hessian_free(
    damping: Scalar | Schedule | None = None,
    decay: Scalar = 0.95,
    policy: Damping | None = None,
    precondition: Scalar | None = None,
    iterations: int = 250,
    memory_budget: int = 2**30,
) -> optax.GradientTransformationExtraArgs:
    """Hessian-free optimization, u = -(A^T A + damping)^-1 g by conjugate gradients, cut short.

        d_0 = decay last                        and conjugate gradients go on from there,
                                                until the model makes little progress
        d   = one of d_1, d_2, d_3, d_4, ...    going back as long as the value falls
        u   = d, d/2, d/4, ...                  the first that lowers the value enough, or zero
        gain = (value(params) - value(params + d)) / (what the model promises)

    One product for each iteration, each the price of a gradient or two, and an evaluation of the
    value for each step that is looked at; memory for some twenty trees like the parameters. For
    batches large enough that a step which is good for one is good for the others.

    Args:
        damping: what to start from, at least 0, used as given. None starts from tau = 1e-3 (the
            policy's) times the curvature along the gradient.
        decay: how much of the last end conjugate gradients start from, in [0, 1).
        policy: how the damping changes, see `rules.damping`; None is
            `damping.trust_ratio(3 / 2, 2 / 3)`.
        precondition: the residual of conjugate gradients is divided by the diagonal of the damped
            matrix to this power, at least 0; 0.75 in the source. None does without the diagonal,
            which costs as much as one backward pass for each output.
        iterations: the most iterations of conjugate gradients in an update, at least 1.
        memory_budget: bytes that a block of the Jacobian may use where the diagonal is made; at
            least 1.

    Units:
        `damping` is loss / params^2.

    Invariant:
        Without `precondition` the path does not change under rotations of the parameters; with
        automatic damping not when the loss is scaled.

    Returns:
        A rule; its state is a `HessianFreeState`. Its update has forward derivatives and no reverse
        ones: it passes through a loop whose length is found on the way.

    Source:
        Martens (2010), "Deep learning via Hessian-free optimization", sections 4.1 to 4.7; Martens
        and Sutskever (2012), "Training deep and recurrent networks with Hessian-free optimization",
        doi:10.1007/978-3-642-35289-8_27, for `decay` and the line search.

    Differs:
        The diagonal is that of the Gauss-Newton matrix, not of the mean of squared gradients. The
        line search halves. Where conjugate gradients end without a promise, the next begin at zero.

    Example:
        >>> import fnn
        >>> objective = fnn.Objective(lambda p, _: jnp.array([10 * (p[1] - p[0]**2), 1 - p[0]]))
        >>> value_fn, p = objective.on(jnp.zeros(1)), jnp.array([-1.2, 1.0])
        >>> rule = hessian_free()
        >>> step = jax.jit(lambda g, state: rule.update(g, state, p, value_fn=value_fn))
        >>> u, state = step(jax.grad(value_fn)(p), rule.init(p))
        >>> print(state.accepted, state.products, value_fn(p + u) < value_fn(p))
        1 4 True
    """
    if damping is not None:
        rates("hessian_free", damping=damping)
    within("hessian_free", 0, 1, decay=decay)
    if precondition is not None:
        within("hessian_free", 0, math.inf, precondition=precondition)
    within("hessian_free", 1, math.inf, iterations=iterations, memory_budget=memory_budget)
    policy = trust_ratio(3 / 2, 2 / 3) if policy is None else policy
    improve = None
    if precondition is not None:
        improve = functools.partial(solvers.jacobi, power=precondition)

    def init(params: PyTree) -> HessianFreeState:
        dtype = state_dtype(params)
        zero, number = jnp.zeros((), dtype), jnp.zeros((), jnp.int32)
        return HessianFreeState(
            steps=number,
            accepted=number,
            rejected=number,
            damping=zero,
            growth=zero,
            unit=zero,
            last=optax.tree.zeros_like(params),
            value=zero,
            gain=zero,
            stalled=jnp.zeros((), bool),
            products=number,
            evaluations=number,
        )

    def update(
        updates: PyTree,
        state: HessianFreeState,
        params: PyTree,
        *,
        value_fn: ValueFunction,
        **extra_args: Any,
    ) -> tuple[PyTree, HessianFreeState]:
        del extra_args
        aligned(updates, state.last, "state")
        value, system, _ = gauss_newton_system(value_fn, params, memory_budget=memory_budget)
        unit = _measure(system, updates, state.unit)
        given = None if damping is None else now(damping, state.steps)
        strength = first_damping(policy, given, state.damping, state.unit, unit)
        start = jax.tree.map(lambda leaf: (decay * leaf).astype(leaf.dtype), state.last)
        rhs = solvers.RightHandSide(None, updates)
        path = solvers.descend(system, rhs, strength, start, iterations, improve)

        def iterate(index: Array) -> PyTree:
            return jax.tree.map(lambda leaf: leaf[index], path.steps)

        def judge(step: PyTree) -> Array:
            reached = value_fn(optax.apply_updates(params, step)).astype(value.dtype)
            return jnp.where(jnp.isfinite(reached), reached, jnp.inf)

        index, whole, looked = _backtrack(path.last, lambda index: judge(iterate(index)))
        step = iterate(index)
        slope = jnp.asarray(optax.tree.vdot(updates, step)).astype(value.dtype)

        def bound(length: Array) -> Array:
            return value + SLOPE * length * jnp.minimum(slope, 0)

        length, reached, halved = _halve(
            whole, lambda length: judge(_shortened(step, length)), bound
        )
        square = optax.tree.norm(step, squared=True)
        step = _shortened(step, length)

        promise = (strength * square / 2 - path.models[index]).astype(value.dtype)
        gain = solvers.over(value - whole, promise)
        gain = jnp.where(jnp.isfinite(gain), gain, 0).astype(unit.dtype)
        moved = differ(optax.apply_updates(params, step), params)
        accepted = path.ok & (reached <= bound(length)) & is_lower(reached, value) & moved
        growth = jnp.where(state.unit > 0, state.growth, policy.increase).astype(unit.dtype)
        strength, growth = next_damping(policy, gain, accepted, strength, growth, unit)
        return jax.tree.map(lambda leaf: jnp.where(accepted, leaf, 0), step), HessianFreeState(
            steps=state.steps + 1,
            accepted=state.accepted + accepted.astype(jnp.int32),
            rejected=state.rejected + (~accepted).astype(jnp.int32),
            damping=strength,
            growth=growth,
            unit=unit,
            last=jax.tree.map(lambda leaf: jnp.where(path.ok, leaf, 0), iterate(path.last)),
            value=jnp.where(accepted, reached, value).astype(state.value.dtype),
            gain=gain,
            stalled=~accepted & is_at_maximum(policy, strength, unit),
            products=state.products + path.iterations + 1 + (state.unit == 0).astype(jnp.int32),
            evaluations=state.evaluations + looked + halved,
        )

    return second_order(init, update)


# The curvature along the gradient, measured until it is found; what is not finite is not kept.
def _measure(system: solvers.System, grad: PyTree, unit: Array) -> Array:
    def along() -> Array:
        square = optax.tree.norm(grad, squared=True)
        bend = optax.tree.vdot(grad, system.multiply(grad)) / jnp.where(square > 0, square, 1)
        bend = jnp.where(jnp.isfinite(bend), jnp.where(bend > 0, bend, 1), 0)
        return bend.astype(unit.dtype)

    return where_due(unit == 0, along, unit)


# From the last iterate back as long as the value falls, or is not finite: index, value, count.
def _backtrack(last: Array, judge: Any) -> tuple[Array, Array, Array]:
    def back(now: tuple) -> tuple:
        index, value, count, _ = now
        earlier = judge(index - 1)
        better = (earlier < value) | jnp.isinf(value)
        return (
            index - better.astype(jnp.int32),
            jnp.where(better, earlier, value),
            count + 1,
            better,
        )

    begin = last, judge(last), jnp.ones((), jnp.int32), jnp.ones((), bool)
    return jax.lax.while_loop(lambda now: now[3] & (now[0] > 0), back, begin)[:3]


# The longest of 1, 1/2, 1/4, ... whose value is below its bound: length, value, count.
def _halve(whole: Array, judge: Any, bound: Any) -> tuple[Array, Array, Array]:
    def half(now: tuple) -> tuple:
        length, _, count = now
        return length / 2, judge(length / 2), count + 1

    def high(now: tuple) -> Array:
        return ~(now[1] <= bound(now[0])) & (now[2] < HALVINGS)

    begin = jnp.ones_like(whole), whole, jnp.zeros((), jnp.int32)
    return jax.lax.while_loop(high, half, begin)


def _shortened(step: PyTree, length: Array) -> PyTree:
    return jax.tree.map(lambda leaf: (length * leaf).astype(leaf.dtype), step)
