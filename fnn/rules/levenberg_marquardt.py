"""Levenberg-Marquardt: the Gauss-Newton step, damped as far as its model can be trusted.

One update is the textbook's loop body:

    d = -(C + damping scale)^-1 g                       the trial
    gain = (value(params) - value(params + d)) / (what the model promises)
    accepted if the value is lower: params + d, less damping
    rejected otherwise: the update is zero, more damping

Everything expensive, the capture and its Gram matrix, is done once for all trials of an update; a
further trial costs a factorization and an evaluation of the value.
"""

import functools
import math
from collections.abc import Callable
from numbers import Real
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from fnn import solvers
from fnn.branches import where_due
from fnn.curvature import Quadratic, accelerations, operator_of
from fnn.dtypes import widest
from fnn.objective import ValueFunction
from fnn.rules import scaling as scalings
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
from fnn.rules.damping import Damping, DampingState, nielsen
from fnn.rules.gauss_newton import quadratic
from fnn.rules.scaling import Scaling
from fnn.rules.trials import (
    Info,
    Proposal,
    by_gain,
    confined,
    first_accepted,
    info_after_trial,
    is_whole,
    landed,
    no_info,
    outlook_like,
    outlook_of,
    outlook_of_each,
    unlearned,
)

FEW = 100
"""Up to so many parameters a step is bent unless told otherwise: there that is cheap."""

BEND = 0.75
"""The most that |a| / |v| may be, unless told otherwise: the usual number of its source."""


class LevenbergMarquardtState(NamedTuple):
    """What Levenberg-Marquardt remembers.

    Attributes:
        damping: Its unit is the largest curvature at the start.
        scale: The diagonal of the scaling; None for the identity.
        info: What came of the trials; `stalled` where the damping arrived at its maximum.
        last: The last step that was accepted, for a solver that begins there; None for others.
    """

    damping: DampingState
    scale: PyTree
    info: Info
    last: PyTree = None


class Method(NamedTuple):
    """The arguments of `levenberg_marquardt`, checked, their defaults filled in.

    Attributes:
        damping: What to start from, a number or a schedule; None measures it.
        policy: Says how the damping changes.
        scaling: Gives the units in which the length of a step is measured.
        solver: Solves the damped system.
        trials: The most trials in one update.
        acceleration: The most that |a| / |v| may be; 0 takes straight steps, None decides by the
            model.
    """

    damping: Scalar | Schedule | None
    policy: Damping
    scaling: Scaling
    solver: solvers.Solver
    trials: int
    acceleration: Scalar | None


@interned_rule
def levenberg_marquardt(
    damping: Scalar | Schedule | None = None,
    policy: Damping | None = None,
    scaling: Scaling = scalings.identity,
    solver: solvers.Solver | None = None,
    trials: int = 1,
    acceleration: Scalar | None = None,
    memory_budget: int = 2**30,
) -> optax.GradientTransformationExtraArgs:
    """The Levenberg-Marquardt method, u = -(A^T A + damping scale)^-1 g if that lowers the value.

    For full batches, or batches large enough that a step which is good for one is good for the
    others: the value is judged on the batch at hand, before and after.

    The value before the step comes from the same pass through the model as the curvature; `value`
    is not read, and `grad` only to see whether `updates` are it (see `gauss_newton`). Where
    something changes the update after the rule (a learning rate, bounds, noise), the gain ratio is
    that of a step which was not taken, and the damping does not follow it (see `trials`).

    Args:
        damping: what to start from, at least 0, used as given. None starts from tau = 1e-3 (the
            policy's) times the unit: the largest entry of diag(A^T A) with `scaling.identity`, 1
            with any other scaling. With `damping.constant` it is
            the damping of every step, and may be a schedule.
        policy: how the damping changes, see `rules.damping`; None is `damping.nielsen()`.
        scaling: in which units the length of a step is measured, see `rules.scaling`.
        solver: None chooses by counted cost, `solvers.automatic`, the exact step. Of networks with
            many outputs, whose system is large, `conjugate_gradients(4, precondition=kronecker)` of
            `solvers` takes nearly the same step: in batches of 256 digits with 10 classes for less
            than 15 steps of Adam in place of some hundreds.
        trials: the most trials in one update, at least 1. Further trials use the same system and
            come only after a rejection; under `vmap`, where any lane had one.
        acceleration: the step is bent, u = v + a / 2, where v is the step above and
            (A^T A + damping scale) a = -A^T (the second derivative of the outputs along v). A trial
            with |a| / |v| above this number is rejected; 0.75 is usual, and 0 takes straight steps.
            None is 0.75 with `scaling.identity` for up to 100 parameters of a model that can be
            differentiated forward twice (a `custom_vjp` in it does not allow that, and a second
            derivative that is not finite bends nothing), and 0 for others. A bent step costs a pass
            through the model, forward twice; a compiled update shares the factorization with v, but
            not under `vmap`, nor between `trials`. A value function without rows, of penalties
            alone, takes straight steps.
        memory_budget: bytes that the automatic choice may use, and, whatever the solver, a tile of
            the Gram matrix or a block of the Jacobian; at least 1.

    Units:
        `damping` is loss / params^2; with `scaling.marquardt` and `scaling.more` a pure number.

    Invariant:
        With automatic damping the path does not change when the loss is scaled. With
        `scaling.identity` and a number for the damping it does not change under rotations of the
        parameters, with `scaling.marquardt` and `scaling.more` not when parameters are measured in
        other units (but for what `acceleration` rejects), nor when the loss is scaled.

    Returns:
        A rule; its state is a `LevenbergMarquardtState`. Its update has forward derivatives, and
        with one trial reverse ones; those of a rejected step are zero.

    Raises:
        ValueError: if `trials` or `memory_budget` is less than 1, or `damping` or `acceleration`
            is negative. (Its update raises a TypeError for a `value_fn` that is a bare function.)

    Source:
        Levenberg (1944), doi:10.1090/qam/10666; Marquardt (1963), doi:10.1137/0111030; Madsen,
        Nielsen and Tingleff, "Methods for non-linear least squares problems" (2004), algorithm
        3.16. Transtrum and Sethna (2012), "Improvements to the Levenberg-Marquardt algorithm for
        nonlinear least-squares minimization", arXiv:1201.5885, for `acceleration`.

    Differs:
        The sources stop at a small gradient or a small step. Here a step that lowers the value by
        no more than its rounding is rejected, so that at a minimum the damping runs to its maximum
        and `info.stalled` says so. The gain of a bent step is measured by what v promises, and |a|
        and |v| are plain lengths, whatever the scaling, as in the GNU Scientific Library.

    Example:
        >>> import fnn
        >>> objective = fnn.Objective(lambda p, _: jnp.array([10 * (p[1] - p[0]**2), 1 - p[0]]))
        >>> value_fn, params = objective.on(jnp.zeros(1)), jnp.array([-1.2, 1.0])
        >>> rule = levenberg_marquardt()
        >>> state, grad = rule.init(params), jax.grad(value_fn)(params)
        >>> u, state = rule.update(grad, state, params, grad=grad, value_fn=value_fn)
        >>> info, value = state.info, value_fn(params + u)
        >>> print(info.accepted, round(float(value), 2), value == info.value)
        1 1.79 True
    """
    require_within("levenberg_marquardt", 1, math.inf, memory_budget=memory_budget)
    if trials < 1:
        raise ValueError(f"levenberg_marquardt: expected trials >= 1, got {trials}; try 1")
    method = checked_method(
        "levenberg_marquardt",
        damping,
        policy,
        scaling,
        solvers.automatic(memory_budget) if solver is None else solver,
        trials,
        acceleration,
    )

    def init(params: PyTree) -> LevenbergMarquardtState:
        return first_state(method, params)

    def update(
        updates: PyTree,
        state: LevenbergMarquardtState,
        params: PyTree,
        *,
        grad: PyTree,
        value_fn: ValueFunction,
        **extra_args: Any,
    ) -> tuple[PyTree, LevenbergMarquardtState]:
        del extra_args
        model = quadratic(value_fn, params, updates, grad, memory_budget)
        return step_on(model, method, value_fn, params, state)

    return second_order(init, update)


def checked_method(
    name: str,
    damping: Scalar | Schedule | None,
    policy: Damping | None,
    scaling: Scaling,
    solver: solvers.Solver,
    trials: int,
    acceleration: Scalar | None,
) -> Method:
    """The method, or an error that begins with the name of the rule."""
    if damping is not None:
        require_rates(name, damping=damping)
    if acceleration is not None:
        require_within(name, 0, math.inf, acceleration=acceleration)
    policy = nielsen() if policy is None else policy
    most = 1 if policy.shrink is None else trials  # a constant damping would repeat the trial
    return Method(damping, policy, scaling, solver, most, acceleration)


def first_state(method: Method, params: PyTree) -> LevenbergMarquardtState:
    """The state before the first step."""
    dtype = state_dtype(params)
    zero = jnp.zeros((), dtype)
    scale = None if method.scaling.scale is None else jax.tree.map(_wide_zeros, params)
    # A unit of 0 is not measured yet.
    damping = DampingState(value=zero, growth=zero, unit=zero, failed=zero).awaiting_verdict()
    last = optax.tree.zeros_like(params) if method.solver.warm else None
    return LevenbergMarquardtState(damping, scale, no_info(dtype, outlook=True), last)


def step_on(
    model: Quadratic,
    method: Method,
    value_fn: ValueFunction,
    params: PyTree,
    state: LevenbergMarquardtState,
) -> tuple[PyTree, LevenbergMarquardtState]:
    """The step on a model of the value function at the parameters, and the state after it."""
    value, system, rhs = model
    rhs, solution_for = rhs._replace(start=state.last), method.solver.prepare(system)
    unit, scale = _measure(system, state, method.scaling)

    def propose(damping: DampingState) -> Proposal:
        shift = _scaled(damping.value, scale)
        solution = solution_for(rhs, shift)
        is_told = is_whole(solution)
        outlook = outlook_of(params, solution._replace(ok=is_told))
        promise = jnp.where(is_told, solution.reduction, jnp.inf)
        bends = None if rhs.s is None else _bends(method, value_fn, params, solution.step)
        promised = confined(solution, value_fn, params, lambda: operator_of(model)).reduction
        if bends is not None:
            # Both are solved with one matrix, and the compiler merges their factorizations. The
            # solver returns -(A^T A + damping scale)^-1 A^T s, from which the minus of a comes.
            acceleration = solution_for(solvers.RightHandSide(bends), shift)
            bound = BEND if method.acceleration is None else method.acceleration
            solution = _accelerated(solution, acceleration, bound)
        step = landed(value_fn, params, solution.step)
        reached = value_fn(optax.apply_updates(params, step)).astype(value.dtype)
        gain = solvers.over(value - reached, promised).astype(value.dtype)
        return Proposal(
            step,
            reached,
            gain,
            solution.ok,
            solution.counts,
            promise=promise,
            outlook=outlook,
        )

    given = None if method.damping is None else now(method.damping, state.info.steps)
    policy = by_gain(method.policy)
    before, changed = unlearned(state.damping, params, value, policy)
    damping = method.policy.init(given, before, unit)
    trial = first_accepted(
        propose, policy, params, value, damping, state.info.counts, method.trials
    )
    info = info_after_trial(state.info, trial, policy, changed)
    outlook = outlook_of_each(params, trial.outlook, info.stalled, value, lambda: _slopes(model))
    info = info._replace(outlook=outlook_like(info.outlook, outlook))
    last = state.last
    if last is not None:
        last = jax.tree.map(lambda new, old: jnp.where(trial.accepted, new, old), trial.step, last)
    return trial.step, LevenbergMarquardtState(trial.damping, scale, info, last)


def _slopes(model: Quadratic) -> tuple[PyTree, PyTree]:
    """The gradient and the diagonal of the curvature."""
    operator = operator_of(model)
    return operator.grad, operator.diagonal()


def _bends(method: Method, value_fn: ValueFunction, params: PyTree, step: PyTree) -> Array | None:
    """The second derivatives along a step that bend it; None where it is to be straight."""
    if method.acceleration is not None:
        is_straight = isinstance(method.acceleration, Real) and method.acceleration == 0
        return None if is_straight else accelerations(value_fn, params, step)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    if size > FEW or method.scaling.scale is not None:  # |a| / |v| depends on units
        return None
    try:
        bends = accelerations(value_fn, params, step)
    except (TypeError, ValueError, NotImplementedError):  # it is not made for forward derivatives
        return None
    return jnp.where(jnp.all(jnp.isfinite(bends)), bends, 0)


def _accelerated(
    straight: solvers.Solution, acceleration: solvers.Solution, bound: Scalar
) -> solvers.Solution:
    """A step v with its acceleration a, good where its path curves little: |a| <= bound |v|."""
    step = optax.tree.add_scale(straight.step, 0.5, acceleration.step)
    is_small = optax.tree.norm(acceleration.step) <= bound * optax.tree.norm(straight.step)
    is_finite = jnp.isfinite(optax.tree.norm(step))
    iterations = straight.counts.iterations + acceleration.counts.iterations
    return straight._replace(
        step=step,
        ok=straight.ok & acceleration.ok & is_small & is_finite,
        counts=straight.counts._replace(iterations=iterations),
    )


def _measure(
    system: solvers.System, state: LevenbergMarquardtState, scaling: Scaling
) -> tuple[Array, PyTree]:
    """The unit of damping, measured once, or until it is finite, and the scale."""
    (diagonal_of,) = solvers.needs(system, "levenberg_marquardt", "diagonal")
    unit = state.damping.unit
    if scaling.scale is not None:
        diagonal = diagonal_of()
        require_aligned(diagonal, state.scale, "state")
        scale = jax.tree.map(functools.partial(_next_scale, scaling.scale), diagonal, state.scale)
        return jnp.ones_like(unit), scale

    def largest() -> Array:
        entries = [jnp.max(leaf, initial=0) for leaf in jax.tree.leaves(diagonal_of())]
        entry = functools.reduce(jnp.maximum, entries).astype(unit.dtype)
        # 0 is measured again; without curvature there is nothing to measure by, and 1 will do.
        return jnp.where(jnp.isfinite(entry), jnp.where(entry > 0, entry, 1), 0)

    return where_due(unit == 0, largest, unit), None


def _next_scale(
    rescale: Callable[[Array, Array], Array], diagonal: Array, previous: Array
) -> Array:
    """The scale of a leaf; the previous one where the new one is not finite."""
    scale = rescale(diagonal.astype(previous.dtype), previous)
    return jnp.where(jnp.isfinite(scale), scale, previous)


def _scaled(damping: Array, scale: PyTree) -> PyTree:
    """The damping times the scale, in which a parameter without curvature counts as one of 1."""
    if scale is None:
        return damping
    return jax.tree.map(lambda leaf: damping * jnp.where(leaf > 0, leaf, 1), scale)


def _wide_zeros(leaf: Array) -> Array:
    """Zeros like a leaf, of at least single precision."""
    return jnp.zeros(jnp.shape(leaf), widest(jnp.result_type(leaf), jnp.float32))
