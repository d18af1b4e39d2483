"""Hessian-free optimization: Gauss-Newton steps from products with the curvature alone."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from fnn import solvers
from fnn.branches import where_due
from fnn.curvature import Quadratic, gauss_newton_system
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
    state_dtype,
)
from fnn.rules.damping import Damping, DampingState, trust_ratio
from fnn.rules.trials import (
    Info,
    Proposal,
    by_gain,
    first_accepted,
    info_after_trial,
    landed,
    no_info,
    outlook_along,
    unlearned,
    where_accepted,
)

SLOPE = 1e-2
"""An accepted step lowers the value by at least this part of what its slope says (Armijo)."""

HALVINGS = 10
"""The most times that a step is halved before it is rejected."""


class HessianFreeState(NamedTuple):
    """What Hessian-free optimization remembers.

    Attributes:
        damping: Its unit is the curvature along the gradient at the start.
        last: Where the last conjugate gradients ended.
        products: With the Gauss-Newton matrix.
        evaluations: Of the value function, to judge steps.
        info: What came of the steps, accepted at their whole length or shortened; `gain` of the
            last one at its whole length; `stalled` where the damping arrived at its maximum.
    """

    damping: DampingState
    last: PyTree
    products: Int[Array, ""]
    evaluations: Int[Array, ""]
    info: Info


class _Options(NamedTuple):
    """The arguments of `hessian_free`, checked, their defaults filled in."""

    damping: Scalar | Schedule | None
    decay: Scalar
    policy: Damping
    improve: Callable[..., Any] | None
    iterations: int


@interned_rule
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
        >>> print(state.info.accepted, state.products, value_fn(p + u) < value_fn(p))
        1 4 True
    """
    if damping is not None:
        require_rates("hessian_free", damping=damping)
    require_within("hessian_free", 0, 1, decay=decay)
    if precondition is not None:
        require_within("hessian_free", 0, math.inf, precondition=precondition)
    require_within("hessian_free", 1, math.inf, iterations=iterations, memory_budget=memory_budget)
    policy = trust_ratio(3 / 2, 2 / 3) if policy is None else policy
    improve = None
    if precondition is not None:
        improve = functools.partial(solvers.jacobi, power=precondition)
    options = _Options(damping, decay, policy, improve, iterations)

    def update(
        updates: PyTree,
        state: HessianFreeState,
        params: PyTree,
        *,
        value_fn: ValueFunction,
        **extra_args: Any,
    ) -> tuple[PyTree, HessianFreeState]:
        del extra_args
        require_aligned(updates, state.last, "state")
        model = gauss_newton_system(value_fn, params, memory_budget=memory_budget)
        return _step_on(model, options, value_fn, params, updates, state)

    return second_order(_init, update)


def _init(params: PyTree) -> HessianFreeState:
    """The state before the first step."""
    dtype = state_dtype(params)
    zero, count = jnp.zeros((), dtype), jnp.zeros((), jnp.int32)
    return HessianFreeState(
        damping=DampingState(zero, zero, zero).awaiting_verdict(),
        last=optax.tree.zeros_like(params),
        products=count,
        evaluations=count,
        info=no_info(dtype, outlook=True),
    )


def _step_on(
    model: Quadratic,
    options: _Options,
    value_fn: ValueFunction,
    params: PyTree,
    grad: PyTree,
    state: HessianFreeState,
) -> tuple[PyTree, HessianFreeState]:
    """The step on a model of the value function at the parameters, and the state after it."""
    value, system, _ = model
    unit = _measure(system, grad, state.damping.unit)
    given = None if options.damping is None else now(options.damping, state.info.steps)
    policy = by_gain(options.policy)
    before, changed = unlearned(state.damping, params, value, policy)
    damping = options.policy.init(given, before, unit)
    start = jax.tree.map(lambda leaf: (options.decay * leaf).astype(leaf.dtype), state.last)
    rhs = solvers.RightHandSide(None, grad)
    path = solvers.descend(system, rhs, damping.value, start, options.iterations, options.improve)

    def reached(step: PyTree) -> Array:
        value_there = value_fn(optax.apply_updates(params, step)).astype(value.dtype)
        return jnp.where(jnp.isfinite(value_there), value_there, jnp.inf)

    proposal, evaluations = _search(path, reached, params, value, grad, damping.value)
    # Within bounds the promise is that of the whole step, more than the projected one can keep: the
    # damping that follows turns steps along the bounds. On 16 Rosenbrock functions of 6 parameters
    # it arrived in 11 steps (median), and in 18 by what the model has along the projected step.
    proposal = proposal._replace(step=landed(value_fn, params, proposal.step))
    trial = first_accepted(lambda _: proposal, policy, params, value, damping, state.info.counts)
    return trial.step, HessianFreeState(
        damping=trial.damping,
        last=where_accepted(path.ok, _iterate(path, path.last)),
        products=state.products + path.iterations + 1 + (state.damping.unit == 0).astype(jnp.int32),
        evaluations=state.evaluations + evaluations,
        info=info_after_trial(state.info, trial, policy, changed),
    )


def _search(
    path: solvers.Descent,
    reached: Callable[[PyTree], Array],
    params: PyTree,
    value: Array,
    grad: PyTree,
    damping: Array,
) -> tuple[Proposal, Array]:
    """The iterate where going back along the path ends, shortened; values that this took."""
    index, whole, back = _backtrack(path.last, lambda index: reached(_iterate(path, index)))
    step = _iterate(path, index)
    slope = jnp.asarray(optax.tree.vdot(grad, step)).astype(value.dtype)

    def bound(length: Array) -> Array:
        return value + SLOPE * length * jnp.minimum(slope, 0)

    length, least, halved = _halve(whole, lambda length: reached(_shortened(step, length)), bound)
    square = optax.tree.norm(step, squared=True)
    promise = (damping * square / 2 - path.models[index]).astype(value.dtype)
    outlook = outlook_along(params, step, -slope, -2 * (slope + promise), path.ok)
    gain = solvers.over(value - whole, promise)
    proposal = Proposal(
        step=_shortened(step, length),
        value=least,
        gain=jnp.where(jnp.isfinite(gain), gain, 0).astype(damping.dtype),
        ok=path.ok & (least <= bound(length)),
        counts=solvers.Counts.of(rejected=~path.ok, iterations=path.iterations),
        outlook=outlook,
    )
    return proposal, back + halved


def _iterate(path: solvers.Descent, index: Array) -> PyTree:
    """One of the steps on a path."""
    return jax.tree.map(lambda leaf: leaf[index], path.steps)


def _measure(system: solvers.System, grad: PyTree, unit: Array) -> Array:
    """The curvature along the gradient, measured until it is finite."""

    def curvature_along() -> Array:
        direction = optax.tree.scale(1 / solvers.largest_entry(grad), grad)
        square = optax.tree.norm(direction, squared=True)
        curved = optax.tree.vdot(direction, system.multiply(direction))
        curvature = curved / jnp.where(square > 0, square, 1)
        positive = jnp.where(curvature > 0, curvature, 1)
        return jnp.where(jnp.isfinite(curvature), positive, 0).astype(unit.dtype)

    return where_due(unit == 0, curvature_along, unit)


def _backtrack(last: Array, value_at: Callable[[Array], Array]) -> tuple[Array, Array, Array]:
    """Index, value and count, from the last iterate back while the value falls or is infinite."""

    def back(search: tuple) -> tuple:
        index, value, count, _ = search
        earlier = value_at(index - 1)
        better = (earlier < value) | jnp.isinf(value)
        return (
            index - better.astype(jnp.int32),
            jnp.where(better, earlier, value),
            count + 1,
            better,
        )

    first = last, value_at(last), jnp.ones((), jnp.int32), jnp.ones((), bool)
    return jax.lax.while_loop(lambda search: search[3] & (search[0] > 0), back, first)[:3]


def _halve(
    whole: Array, value_at: Callable[[Array], Array], bound: Callable[[Array], Array]
) -> tuple[Array, Array, Array]:
    """Length, value and count of the longest of 1, 1/2, 1/4, ... with a value in its bound."""

    def half(search: tuple) -> tuple:
        length, _, count = search
        return length / 2, value_at(length / 2), count + 1

    def is_high(search: tuple) -> Array:
        length, value, count = search
        return ~(value <= bound(length)) & (count < HALVINGS)

    first = jnp.ones_like(whole), whole, jnp.zeros((), jnp.int32)
    return jax.lax.while_loop(is_high, half, first)


def _shortened(step: PyTree, length: Array) -> PyTree:
    """So much of a step, in its dtypes."""
    return jax.tree.map(lambda leaf: (length * leaf).astype(leaf.dtype), step)
