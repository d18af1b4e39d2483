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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from fnn import solvers
from fnn.branches import where_due
from fnn.curvature import Quadratic, accelerations
from fnn.dtypes import widest
from fnn.interned import interned
from fnn.objective import ValueFunction
from fnn.rules import scaling as scalings
from fnn.rules.contract import Scalar, Schedule, aligned, rates, within
from fnn.rules.damping import Damping, first_damping, is_at_maximum, next_damping, nielsen
from fnn.rules.scaling import Scaling
from fnn.rules.second_order import differ, is_lower, now, quadratic, second_order, state_dtype


class LevenbergMarquardtState(NamedTuple):
    """What Levenberg-Marquardt remembers.

    Attributes:
        steps: Updates, accepted or not.
        accepted: Trials accepted; at most one in an update.
        rejected: Trials rejected.
        damping: For the next trial.
        growth: What a rejection would multiply it by.
        unit: The largest curvature at the start, in which the damping's bounds are measured; 0
            until a finite one is seen.
        scale: The diagonal of the scaling; None for the identity.
        value: Of the parameters that the last update led to.
        gain: Gain ratio of the last trial.
        stalled: Whether the damping arrived at its maximum: no step lowers the value.
        counts: What the solver did.
    """

    steps: Int[Array, ""]
    accepted: Int[Array, ""]
    rejected: Int[Array, ""]
    damping: Float[Array, ""]
    growth: Float[Array, ""]
    unit: Float[Array, ""]
    scale: PyTree
    value: Float[Array, ""]
    gain: Float[Array, ""]
    stalled: Bool[Array, ""]
    counts: solvers.Counts


class _Trial(NamedTuple):
    """The last trial of an update, and the damping for the next."""

    step: PyTree
    value: Array
    gain: Array
    accepted: Array
    damping: Array
    growth: Array
    trials: Array
    counts: solvers.Counts


@interned
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
    is not read, and `grad` only to see whether `updates` are it (see `second_order`). Whatever
    changes the update after the rule (a learning rate, a mask) makes the gain ratio a statement
    about another step.

    Args:
        damping: what to start from, at least 0, used as given. None starts from tau = 1e-3 (the
            policy's) times the largest entry of diag(A^T A) / scale. With `damping.constant` it is
            the damping of every step, and may be a schedule.
        policy: how the damping changes, see `rules.damping`; None is `damping.nielsen()`.
        scaling: in which units the length of a step is measured, see `rules.scaling`.
        solver: None chooses by counted cost, `solvers.automatic`.
        trials: the most trials in one update, at least 1. Further trials use the same system and
            come only after a rejection; under `vmap`, where any lane had one.
        acceleration: the step is bent, u = v + a / 2, where v is the step above and
            (A^T A + damping scale) a = -A^T (the second derivative of the outputs along v). A trial
            with |a| / |v| above this number, at least 0, is rejected; 0.75 is usual. Costs a pass
            through the model, forward twice; a compiled update shares the factorization with v,
            but not under `vmap`, nor between `trials`. None does without.
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
        ValueError: if `trials` is less than 1, `memory_budget` is, or `damping` is negative. (Its
            update raises a TypeError for a `value_fn` that is a bare function.)

    Source:
        Levenberg (1944), doi:10.1090/qam/10666; Marquardt (1963), doi:10.1137/0111030; Madsen,
        Nielsen and Tingleff, "Methods for non-linear least squares problems" (2004), algorithm
        3.16. Transtrum and Sethna (2012), "Improvements to the Levenberg-Marquardt algorithm for
        nonlinear least-squares minimization", arXiv:1201.5885, for `acceleration`.

    Differs:
        The sources stop at a small gradient or a small step. Here a step that lowers the value by
        no more than its rounding is rejected, so that at a minimum the damping runs to its maximum
        and `stalled` says so. The gain of a bent step is measured by what v promises, and |a| and
        |v| are plain lengths, whatever the scaling, as in the GNU Scientific Library.

    Example:
        >>> import fnn
        >>> objective = fnn.Objective(lambda p, _: jnp.array([10 * (p[1] - p[0]**2), 1 - p[0]]))
        >>> value_fn, params = objective.on(jnp.zeros(1)), jnp.array([-1.2, 1.0])
        >>> rule = levenberg_marquardt()
        >>> state, grad = rule.init(params), jax.grad(value_fn)(params)
        >>> u, state = rule.update(grad, state, params, grad=grad, value_fn=value_fn)
        >>> print(state.accepted, round(float(state.value), 2), value_fn(params + u) == state.value)
        1 6.6 True
    """
    if damping is not None:
        rates("levenberg_marquardt", damping=damping)
    if acceleration is not None:
        within("levenberg_marquardt", 0, math.inf, acceleration=acceleration)
    within("levenberg_marquardt", 1, math.inf, memory_budget=memory_budget)
    if trials < 1:
        raise ValueError(f"levenberg_marquardt: expected trials >= 1, got {trials}; try 1")
    solve = solvers.automatic(memory_budget) if solver is None else solver
    policy = nielsen() if policy is None else policy
    most = 1 if policy.shrink is None else trials  # the same trial again would be in vain

    def init(params: PyTree) -> LevenbergMarquardtState:
        dtype = state_dtype(params)
        zero = jnp.zeros((), dtype)
        number = jnp.zeros((), jnp.int32)
        return LevenbergMarquardtState(
            steps=number,
            accepted=number,
            rejected=number,
            damping=zero,
            growth=zero,
            unit=zero,
            scale=None if scaling.scale is None else jax.tree.map(_wide_zeros, params),
            value=zero,
            gain=zero,
            stalled=jnp.zeros((), bool),
            counts=solvers.Counts.of(),
        )

    def update(
        updates: PyTree,
        state: LevenbergMarquardtState,
        params: PyTree,
        *,
        grad: PyTree,
        value_fn: ValueFunction,
        known: Quadratic | None = None,  # by a rule around this one that has it already
        **extra_args: Any,
    ) -> tuple[PyTree, LevenbergMarquardtState]:
        del extra_args
        known = known or quadratic(value_fn, params, updates, grad, memory_budget)
        value, system, rhs = known
        solution_for = solve.prepare(system)
        unit, scale = _measure(system, state, scaling)
        given = None if damping is None else now(damping, state.steps)

        def attempt(last: _Trial) -> _Trial:
            strength = _scaled(last.damping, scale)
            solution = solution_for(rhs, strength)
            if acceleration is not None and rhs.s is not None:
                # The compiler sees that both are solved with one factorization.
                bends = accelerations(value_fn, params, solution.step)
                bent = solution_for(solvers.RightHandSide(bends), strength)
                solution = _bend(solution, bent, acceleration)
            after = optax.apply_updates(params, solution.step)
            reached = value_fn(after).astype(value.dtype)
            gain = solvers.over(value - reached, solution.reduction).astype(value.dtype)
            accepted = solution.ok & is_lower(reached, value) & differ(after, params)
            trusted, growth = next_damping(policy, gain, accepted, last.damping, last.growth, unit)
            return _Trial(
                step=jax.tree.map(lambda leaf: jnp.where(accepted, leaf, 0), solution.step),
                value=jnp.where(accepted, reached, value),
                gain=gain,
                accepted=accepted,
                damping=trusted,
                growth=growth,
                trials=last.trials + 1,
                counts=jax.tree.map(jnp.add, last.counts, solution.counts),
            )

        def undecided(last: _Trial) -> Array:
            return (
                ~last.accepted & (last.trials < most) & ~is_at_maximum(policy, last.damping, unit)
            )

        first = _Trial(
            step=optax.tree.zeros_like(params),
            value=value,
            gain=jnp.zeros_like(value),
            accepted=jnp.zeros((), bool),
            damping=first_damping(policy, given, state.damping, state.unit, unit),
            growth=jnp.where(state.unit > 0, state.growth, policy.increase).astype(unit.dtype),
            trials=jnp.zeros((), jnp.int32),
            counts=state.counts,
        )
        trial = attempt(first) if most == 1 else jax.lax.while_loop(undecided, attempt, first)

        return trial.step, LevenbergMarquardtState(
            steps=state.steps + 1,
            accepted=state.accepted + trial.accepted.astype(jnp.int32),
            rejected=state.rejected + trial.trials - trial.accepted.astype(jnp.int32),
            damping=trial.damping,
            growth=trial.growth,
            unit=unit,
            scale=scale,
            value=trial.value.astype(state.value.dtype),
            gain=trial.gain.astype(state.gain.dtype),
            stalled=~trial.accepted & is_at_maximum(policy, trial.damping, unit),
            counts=trial.counts,
        )

    return second_order(init, update)


# A step v with its acceleration a, good where its path bends little: |a| <= bound |v|.
def _bend(straight: solvers.Solution, bent: solvers.Solution, bound: Scalar) -> solvers.Solution:
    step = optax.tree.add_scale(straight.step, 0.5, bent.step)
    little = optax.tree.norm(bent.step) <= bound * optax.tree.norm(straight.step)
    finite = jnp.isfinite(optax.tree.norm(step))
    iterations = straight.counts.iterations + bent.counts.iterations
    return straight._replace(
        step=step,
        ok=straight.ok & bent.ok & little & finite,
        counts=straight.counts._replace(iterations=iterations),
    )


# The unit of damping, measured until it is found, and the scale. What is not finite is not kept.
def _measure(
    system: solvers.System, state: LevenbergMarquardtState, scaling: Scaling
) -> tuple[Array, PyTree]:
    (measure,) = solvers.needs(system, "levenberg_marquardt", "diagonal")
    if scaling.scale is not None:
        diagonal = measure()
        aligned(diagonal, state.scale, "state")
        scale = jax.tree.map(functools.partial(_next_scale, scaling.scale), diagonal, state.scale)
        return jnp.ones_like(state.unit), scale

    def largest() -> Array:
        entries = [jnp.max(leaf, initial=0) for leaf in jax.tree.leaves(measure())]
        found = functools.reduce(jnp.maximum, entries).astype(state.unit.dtype)
        return jnp.where(jnp.isfinite(found), jnp.where(found > 0, found, 1), 0)

    return where_due(state.unit == 0, largest, state.unit), None


def _next_scale(
    rescale: Callable[[Array, Array], Array], diagonal: Array, previous: Array
) -> Array:
    scale = rescale(diagonal.astype(previous.dtype), previous)
    return jnp.where(jnp.isfinite(scale), scale, previous)


def _scaled(damping: Array, scale: PyTree) -> PyTree:
    if scale is None:
        return damping
    return jax.tree.map(lambda leaf: damping * jnp.where(leaf > 0, leaf, 1), scale)


def _wide_zeros(leaf: Array) -> Array:
    return jnp.zeros(jnp.shape(leaf), widest(jnp.result_type(leaf), jnp.float32))
