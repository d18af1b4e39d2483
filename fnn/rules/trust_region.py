"""Trust region and cubic regularization: Newton's model, as far as it can be trusted.

    d = the least of g . d + 1/2 d . H d       where |d| <= radius
    d = the least of g . d + 1/2 d . H d + weight/3 |d|^3

Both minima are global, whatever the signs of the curvature: the step goes downhill from a saddle,
even from the very point. What came of it is compared with what the model promised,

    gain = (value(params) - value(params + d)) / promise

and where the gain is below `LEAST`, or the value no lower than by rounding, the step is rejected:
the update is zero. The gain also moves the radius or the weight, which is measured in what makes
the first step as long as a step of gradient descent at the largest curvature,

    radius = |g| / max |eigenvalue|           weight = max |eigenvalue| / radius

A radius stays within a factor `RANGE` of this unit, a weight between `LIGHTEST` and `RANGE` of it.

The arrival at the end of the shortest steps is a reason to stop. A step whose promise rounding
would hide was too short, or there is no better one: `damping` says what becomes of it.

For full batches, or batches large enough that a step which is good for one is good for the others.
H is diagonalized once for all trials of an update (see `solvers.eigenbasis`); a further trial costs
an evaluation of the value.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from fnn import solvers
from fnn.curvature import hessian_system, operator_of
from fnn.rules.contract import Scalar, interned_rule, require_within, second_order, state_dtype
from fnn.rules.damping import DampingState, descended_damping
from fnn.rules.trials import (
    Info,
    Policy,
    Proposal,
    confined,
    first_accepted,
    info_after_trial,
    is_visible,
    no_info,
    outlook_of,
    unlearned,
)

LEAST = 0.1
"""The gain ratio of an accepted step is at least this."""

RANGE = 1e16
"""How far steps are shortened, by radius or weight, and how far a radius grows."""

LIGHTEST = 1e-160
"""The least weight, in its unit: it goes with curvatures over lengths, which fall by many orders.
With 1e-16 four of 63 problems (HAHN1, ROSZMAN1, SISSER, VANDANMS) were left with short steps."""

FALL, CAP = 1 / 4, 1 / 2
"""A weight that explains more than it should falls to this at first, and to its square where it
fell as far in the step before; it falls at least by half. Quadratic functions want fast falls,
bent valleys slow ones: of 1/2, 1/4 and 1/10, squared or not, this took the fewest steps."""

RISE, LEAP, BLIND = 2.0, 1000.0, 10.0
"""After a rejection the weight rises to what explains the value, from 2 to 1000 times: with 10 for
the 1000 walks took half as many steps again. Where the value is not finite it rises by 10, to a
step of a third of the length. It may always take back its last fall as well."""


class TrustState(NamedTuple):
    """What a rule with a trust region, or a cubic term, remembers.

    Attributes:
        damping: Its value is the radius, or the weight of the cubic term; its unit the automatic
            start of that.
        info: What came of the trials; `stalled` where the damping arrived at its end.
    """

    damping: DampingState
    info: Info


@interned_rule
def trust_region_newton(
    radius: Scalar | None = None,
    subspace: int | None = None,
    trials: int = 1,
    memory_budget: int = 2**30,
) -> optax.GradientTransformationExtraArgs:
    """Newton's method in a trust region, u = argmin g . u + 1/2 u . H u with |u| <= radius.

        gain < 1/4                          radius = min(radius, |u|) / 4
        gain > 3/4 and |u| = radius         radius = 2 radius

    Args:
        radius: what to start from, at least 0. None starts from the length of a gradient step at
            the largest curvature.
        subspace: the dimension of a Lanczos subspace, at least 1, each for a product with the
            Hessian. None diagonalizes the Hessian of up to 2000 parameters (fewer, where its
            matrices do not fit in `memory_budget`), and takes 32 vectors for more.
        trials: the most trials in one update, at least 1. Further trials use the same eigenbasis
            and come only after a rejection; under `vmap`, where any lane had one.
        memory_budget: bytes that the eigenbasis, and products made at once, may use; at least 1.

    Units:
        `radius` is params.

    Invariant:
        The path does not change under rotations of the parameters, nor when the loss is scaled;
        with the automatic radius, neither when all parameters are measured in another unit.

    Returns:
        A rule; its state is a `TrustState`. Its update has forward derivatives and no reverse ones:
        it passes through a loop whose length is found on the way.

    Source:
        Moré and Sorensen (1983), doi:10.1137/0904038, for the step; Nocedal and Wright, Numerical
        Optimization (2006), algorithm 4.1, for the radius. In a subspace: Gould, Lucidi, Roma and
        Toint (1999), doi:10.1137/S1052623497322735.

    Differs:
        After a poor step the radius is a quarter of the step's length, if that is shorter. In a
        subspace the minimum over all of it is taken, which is at least as low as the point where
        Steihaug's and Toint's conjugate gradients would leave the region after as many products.

    Example:
        >>> import jax
        >>> saddle = lambda p: p[0] ** 2 - p[1] ** 2 + p[1] ** 4 / 4
        >>> rule, p = trust_region_newton(radius=0.5), jnp.zeros(2)
        >>> u, state = rule.update(jax.grad(saddle)(p), rule.init(p), p, value_fn=saddle)
        >>> print(jnp.abs(u), state.info.accepted)  # off the very saddle
        [0.  0.5] 1
    """
    _require_arguments("trust_region_newton", subspace, trials, memory_budget, radius=radius)
    return _rule(_RADIUS, _Arguments(radius, subspace, trials, memory_budget))


@interned_rule
def cubic_newton(
    weight: Scalar | None = None,
    subspace: int | None = None,
    trials: int = 1,
    memory_budget: int = 2**30,
) -> optax.GradientTransformationExtraArgs:
    """Newton's method with a cubic term, u = argmin g . u + 1/2 u . H u + weight/3 |u|^3.

    A weight above half the Lipschitz constant of the Hessian bounds the value from above. Each
    trial says which weight would have explained the value that it met,

        value(params + u) - value(params) = g . u + 1/2 u . H u + explains/3 |u|^3

        gain < 0.1          weight = explains, from 2 weight to 1000 weight
        gain > 0.9          weight = explains, from fall weight to 1/2 weight

    where fall is 1/4, and the square of what it was where the weight has just fallen so far; such
    a fall is taken back where it led to a rejection.

    Args:
        weight: what to start from, at least 0. None starts from what makes the first step about as
            long as a gradient step at the largest curvature.
        subspace: the dimension of a Lanczos subspace, at least 1, each for a product with the
            Hessian. None diagonalizes the Hessian of up to 2000 parameters (fewer, where its
            matrices do not fit in `memory_budget`), and takes 32 vectors for more.
        trials: the most trials in one update, at least 1. Further trials use the same eigenbasis
            and come only after a rejection; under `vmap`, where any lane had one.
        memory_budget: bytes that the eigenbasis, and products made at once, may use; at least 1.

    Units:
        `weight` is loss / params^3.

    Invariant:
        The path does not change under rotations of the parameters; with the automatic weight,
        neither when the loss is scaled, nor when all parameters are measured in another unit.

    Returns:
        A rule; its state is a `TrustState`. Its update has forward derivatives and no reverse ones:
        it passes through a loop whose length is found on the way.

    Source:
        Cartis, Gould and Toint (2011), "Adaptive cubic regularisation methods for unconstrained
        optimization, part I", algorithm 2.1, doi:10.1007/s10107-009-0286-5. Nesterov and Polyak
        (2006), doi:10.1007/s10107-006-0706-8, for the model. Gould, Porcelli and Toint (2012),
        "Updating the regularization parameter in the adaptive cubic regularization algorithm",
        doi:10.1007/s10589-011-9446-7, for weights that explain what came.

    Differs:
        After a very good step the first source suggests `min(weight, |g|)`, which has no units;
        the third, the weight whose step along u would be best. Here it is the one that explains
        the value, and falls faster where the function is nearly quadratic. What is promised
        contains the cubic term, as in the sources.

    Example:
        >>> import jax
        >>> saddle = lambda p: p[0] ** 2 - p[1] ** 2 + p[1] ** 4 / 4
        >>> rule, p = cubic_newton(weight=4.0), jnp.zeros(2)
        >>> u, state = rule.update(jax.grad(saddle)(p), rule.init(p), p, value_fn=saddle)
        >>> print(jnp.abs(u), state.info.accepted)  # off the very saddle
        [0.  0.5] 1
    """
    _require_arguments("cubic_newton", subspace, trials, memory_budget, weight=weight)
    return _rule(_WEIGHT, _Arguments(weight, subspace, trials, memory_budget))


class _Arguments(NamedTuple):
    """The arguments of both rules, checked."""

    damping: Scalar | None
    subspace: int | None
    trials: int
    memory_budget: int


class _Method(NamedTuple):
    """What the two rules differ in.

    Attributes:
        unit: `(length of the first step, largest curvature) -> damping`.
        weights: `(eigenbasis, damping) -> ` the step, as weights of the eigenvectors.
        penalty: `(damping, length) ->` what of the model's promise is kept back.
        next: `(damping, proposal, accepted) -> ` what it and its growth become.
        bounds: `unit -> ` the least and the most damping.
        is_spent: `(damping, unit) -> ` whether it arrived at the end of the shortest steps.
        strength: `damping -> ` what shortens steps where it grows, and back again.
    """

    unit: Callable[[Array, Array], Array]
    weights: Callable[[solvers.Eigenbasis, Array], Array]
    penalty: Callable[[Array, Array], Array]
    next: Callable[[DampingState, Proposal, Array], tuple[Array, Array]]
    bounds: Callable[[Array], tuple[Array, Array]]
    is_spent: Callable[[Array, Array], Array]
    strength: Callable[[Array], Array]


def _next_radius(damping: DampingState, proposal: Proposal, accepted: Array) -> tuple[Array, Array]:
    radius, gain, length = damping.value, proposal.gain, proposal.length
    less = jnp.minimum(radius, length) / 4
    more = jnp.where((gain > 0.75) & (length > 0.99 * radius), 2 * radius, radius)
    return jnp.where(accepted & (gain >= 0.25), more, less), jnp.ones_like(radius)


def _next_weight(damping: DampingState, proposal: Proposal, accepted: Array) -> tuple[Array, Array]:
    weight, gain = damping.value, proposal.gain
    # The weight that explains the value, in units of this one: value - promise + kept was told.
    kept = _cubic_term(weight, proposal.length)
    explains = 1 + (1 - gain) * solvers.over(proposal.promise, kept)
    back = 1 / damping.growth  # after a fall, all of it; after a descent, see `damping`, as well
    leap, blind = jnp.maximum(LEAP, back), jnp.maximum(BLIND, back)
    more = jnp.where(jnp.isfinite(explains), jnp.clip(explains, RISE, leap), blind)
    fall = jnp.where(damping.growth < 1, damping.growth**2, FALL)
    falls = accepted & (gain > 0.9)
    less = jnp.where(falls, jnp.clip(explains, fall, CAP), 1.0)
    growth = jnp.where(falls & (explains <= fall), fall, 1.0)
    return weight * jnp.where(accepted, less, more), growth.astype(damping.growth.dtype)


def _cubic_term(weight: Array, length: Array) -> Array:
    """The cubic term, which is kept back of what the quadratic model promises."""
    return weight * length**3 / 3


def _weights(unit: Array) -> tuple[Array, Array]:
    """The least and the most weight; that by which is divided keeps away from underflow."""
    smallest = jnp.finfo(unit.dtype).tiny / jnp.finfo(unit.dtype).eps
    return jnp.maximum(unit * LIGHTEST, smallest), unit * RANGE


_RADIUS = _Method(
    unit=lambda length, _: length,
    weights=solvers.trust_region,
    penalty=lambda _, length: jnp.zeros_like(length),
    next=_next_radius,
    bounds=lambda unit: (unit / RANGE, unit * RANGE),
    is_spent=lambda radius, unit: radius <= unit / RANGE,
    strength=lambda radius: 1 / radius,
)
_WEIGHT = _Method(
    unit=lambda length, largest: jnp.where(largest > 0, largest, 1) / length,
    weights=solvers.cubic,
    penalty=_cubic_term,
    next=_next_weight,
    bounds=_weights,
    is_spent=lambda weight, unit: weight >= unit * RANGE,
    strength=lambda weight: weight,
)


def _require_arguments(
    name: str, subspace: int | None, trials: int, memory_budget: int, **damping: Scalar | None
) -> None:
    """Require arguments in their ranges; `damping` is a radius or a weight, by its name."""
    given = {argument: value for argument, value in damping.items() if value is not None}
    require_within(name, 0, math.inf, **given)
    require_within(name, 1, math.inf, trials=trials, memory_budget=memory_budget)
    if subspace is not None:
        require_within(name, 1, math.inf, subspace=subspace)


def _rule(method: _Method, arguments: _Arguments) -> optax.GradientTransformationExtraArgs:
    """The rule of a method."""

    def init(params: PyTree) -> TrustState:
        dtype = state_dtype(params)
        zero = jnp.zeros((), dtype)
        damping = DampingState(zero, zero + 1, zero, zero).awaiting_verdict()
        return TrustState(damping, no_info(dtype, outlook=True))

    def update(
        updates: PyTree,
        state: TrustState,
        params: PyTree,
        *,
        value_fn: Callable[[PyTree], Array],
        **extra_args: Any,
    ) -> tuple[PyTree, TrustState]:
        del extra_args
        return _step(method, arguments, updates, state, params, value_fn)

    return second_order(init, update)


def _step(
    method: _Method,
    arguments: _Arguments,
    updates: PyTree,
    state: TrustState,
    params: PyTree,
    value_fn: Callable[[PyTree], Array],
) -> tuple[PyTree, TrustState]:
    """The step of a method and the state after it."""
    budget = arguments.memory_budget
    model = hessian_system(value_fn, params, memory_budget=budget)
    value, system, _ = model
    rhs = solvers.RightHandSide(None, updates)
    basis = solvers.eigenbasis(system, rhs, arguments.subspace, budget)
    policy = Policy(
        update=functools.partial(_next_damping, method),
        is_spent=lambda damping: method.is_spent(damping.value, damping.unit),
    )
    before, changed = unlearned(state.damping, params, value, policy)
    damping = _first_damping(method, arguments.damping, before, basis)

    def propose(damping: DampingState) -> Proposal:
        weights = method.weights(basis, damping.value)
        length = jnp.linalg.norm(weights)
        solution = basis.solution(weights)
        outlook = outlook_of(params, solution)
        kept = method.penalty(damping.value, length)
        promise = jnp.where(solution.ok, solution.reduction - kept, jnp.inf)
        solution = confined(solution, value_fn, params, lambda: operator_of(model))
        reached = value_fn(optax.apply_updates(params, solution.step)).astype(value.dtype)
        gain = solvers.over(value - reached, solution.reduction - kept).astype(value.dtype)
        ok = solution.ok & (gain >= LEAST)
        return Proposal(solution.step, reached, gain, ok, solution.counts, length, promise, outlook)

    trial = first_accepted(
        propose, policy, params, value, damping, state.info.counts, arguments.trials
    )
    info = info_after_trial(state.info, trial, policy, changed)
    return trial.step, TrustState(trial.damping, info)


def _first_damping(
    method: _Method, given: Scalar | None, before: DampingState, basis: solvers.Eigenbasis
) -> DampingState:
    """The damping of an update's first trial."""
    dtype = before.value.dtype
    unit = jnp.where(before.unit > 0, before.unit, _unit(method, basis).astype(dtype))
    start = unit if given is None else jnp.asarray(given, dtype)
    number = jnp.where(before.unit > 0, before.value, start)
    return before._replace(value=jnp.clip(number, *method.bounds(unit)), unit=unit)


def _next_damping(
    method: _Method, damping: DampingState, proposal: Proposal, accepted: Array, value: Array
) -> DampingState:
    """The damping after a trial, unchanged where there is no length: nothing was learned."""
    number, growth = method.next(damping, proposal, accepted)
    strength, unit = method.strength(damping.value), method.strength(damping.unit)
    failed = jnp.where(accepted | ~jnp.isfinite(strength), 0, strength)
    after = damping._replace(value=number, growth=growth, failed=failed)
    # Where the promise is not visible the step is too short, or there is no other: see `damping`.
    # The longest steps a factor within their bound, so that they are reached; the shortest beyond.
    bounds = method.bounds(damping.unit)
    ends = [2 * method.strength(bound) for bound in bounds]
    least, most = jnp.minimum(*ends), jnp.maximum(*ends)
    lost = descended_damping(damping._replace(value=strength, unit=unit), least, most, 1.0)
    lost = lost._replace(value=method.strength(lost.value), unit=damping.unit)
    is_known = accepted | is_visible(proposal.promise, value)
    after = jax.tree.map(functools.partial(jnp.where, is_known), after, lost)
    number = jnp.clip(after.value, *bounds)
    number = jnp.where(jnp.isfinite(number), number, damping.value)
    # A fall counts as far as the bounds let it: its square would come to 0, and its inverse, which
    # takes it back, to infinity.
    fall = jnp.maximum(method.strength(number) / strength, after.growth)
    fall = jnp.clip(fall, jnp.finfo(fall.dtype).tiny, 1)
    growth = jnp.where((after.growth < 1) & jnp.isfinite(fall), fall, after.growth)
    dtype = damping.value.dtype
    return after._replace(value=number.astype(dtype), growth=growth.astype(dtype))


def _unit(method: _Method, basis: solvers.Eigenbasis) -> Array:
    """The damping whose first step is as long as one of gradient descent; 0 if not finite."""
    largest = jnp.max(jnp.abs(basis.values))
    length = jnp.linalg.norm(basis.slopes) / jnp.where(largest > 0, largest, 1)
    unit = method.unit(jnp.where(length > 0, length, 1), largest)
    return jnp.where(basis.ok & jnp.isfinite(unit), unit, 0)
