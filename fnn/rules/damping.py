"""Damping: how Levenberg-Marquardt learns what step its model can be trusted with.

A policy is a value that says by which factor the damping changes. A rejected step multiplies it by
`increase`, and by `acceleration` times more for each rejection in a row; an accepted step by what
`shrink` makes of the gain ratio, the decrease that came over the decrease that the model promised:

    rejected:   damping = damping * growth,         growth = growth * acceleration
    accepted:   damping = damping * shrink(gain),   growth = increase

The number that the damping starts from is the rule's own argument `damping`, because it has units,
loss / params^2, and may be traced; what stands here has none. Without such a number the damping
starts at `tau * unit`, `unit` being the largest entry on the diagonal of the curvature where
training starts (divided by the scaling, if there is one). The damping stays between `minimum` and
`maximum` times the unit, and an arrival at the maximum is a reason to stop: no step, however short,
lowers the value.

Where a step promises a decrease that rounding would hide, its damping is too large already, and
more of it promises still less. There the damping falls, until it promises something; it goes to its
maximum at once where such a step has failed before, or where no damping promises anything.

The numbers of a policy may be traced as well, where the policy is made inside the traced function.
"""

import functools
import math
from collections.abc import Callable
from numbers import Real
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from fnn.rules.contract import Scalar, require_within

__all__ = [
    "Damping",
    "DampingState",
    "Verdict",
    "constant",
    "descended_damping",
    "first_damping",
    "is_at_maximum",
    "multiplicative",
    "next_damping",
    "nielsen",
    "trust_ratio",
]
__dir__ = __all__.copy


class Verdict(NamedTuple):
    """What a rule remembers of the last step that it accepted, to see whether it was taken.

    Attributes:
        before: The damping that proposed the step, a `DampingState` without a verdict.
        start: The value that the step began at, and
        reached: the one that it led to, as the rule judged it.
        mark: A number by which the parameters are told that the step led to.
        is_known: Whether there was such a step in the last update.
    """

    before: Any  # a DampingState, which holds verdicts
    start: Float[Array, ""]
    reached: Float[Array, ""]
    mark: Float[Array, ""]
    is_known: Bool[Array, ""]


class DampingState(NamedTuple):
    """What a rule remembers of its damping; of a trust region, of the radius or the weight.

    Attributes:
        value: For the next trial.
        growth: What a rejection would multiply it by; None where that depends on the step.
        unit: What its bounds are measured in; 0 until a finite one is measured.
        failed: The damping of the last step that promised a visible decrease and was rejected; 0
            after an accepted step, None for a rule that does not ask.
        verdict: On the last step that was accepted; with None steps are not looked at again.
    """

    value: Float[Array, ""]
    growth: Any  # a number or None
    unit: Float[Array, ""]
    failed: Any = None  # a number or None
    verdict: Any = None  # a Verdict in the state of a rule

    def awaiting_verdict(self) -> "DampingState":
        """The same damping, which will look at steps again and has none behind it."""
        none = jnp.zeros_like(self.value)
        verdict = Verdict(self._replace(verdict=None), none, none, none, jnp.zeros((), bool))
        return self._replace(verdict=verdict)


class Damping(NamedTuple):
    """A damping policy, `init` and `update`: plain data, hashable, equal to its like.

    Attributes:
        shrink: `(policy, gain) -> factor` after an accepted step; None keeps the damping as the
            rule's argument says, always.
        decrease: The strongest factor of an accepted step, in [0, 1]; 1 where it never falls.
        increase: The factor of a rejected step, at least 1.
        acceleration: How much stronger each further rejection in a row is, at least 1.
        tau: Where an automatic start lies, in units of the largest curvature.
        minimum: The least damping in these units, at least 0; the damping itself is never less than
            the smallest normal number of its dtype.
        maximum: The most damping in these units, at least `minimum`.
    """

    shrink: Callable[[Any, Float[Array, ""]], Float[Array, ""]] | None
    decrease: Scalar = 1.0
    increase: Scalar = 1.0
    acceleration: Scalar = 1.0
    tau: Scalar = 1e-3
    minimum: Scalar = 1e-40
    maximum: Scalar = 1e16

    def init(
        self, given: Scalar | None, before: DampingState, unit: Float[Array, ""]
    ) -> DampingState:
        """The damping of an update's first trial, see `first_damping`."""
        value = first_damping(self, given, before.value, before.unit, unit)
        growth = jnp.where(before.unit > 0, before.growth, self.increase).astype(unit.dtype)
        return before._replace(value=value, growth=growth, unit=unit)

    def update(
        self,
        state: DampingState,
        gain: Float[Array, ""],
        accepted: Bool[Array, ""],
        is_visible: Bool[Array, ""] | None = None,
    ) -> DampingState:
        """The damping after a trial, see `next_damping`; less where its promise is not visible."""
        growth = jnp.maximum(state.growth, self.increase)  # after a descent as at first
        value, growth = next_damping(self, gain, accepted, state.value, growth, state.unit)
        after = state._replace(value=value, growth=growth)
        if is_visible is None or self.shrink is None:
            return after
        after = after._replace(failed=jnp.where(accepted, 0, state.value))
        known = accepted | is_visible
        descended = descended_damping(state, *_bounds(self, state.unit), self.increase)
        return jax.tree.map(functools.partial(jnp.where, known), after, descended)

    def is_spent(self, state: DampingState) -> Bool[Array, ""]:
        """Whether the damping cannot grow any more, see `is_at_maximum`."""
        return is_at_maximum(self, state.value, state.unit)


def constant(tau: Scalar = 1e-3) -> Damping:
    """The damping that the rule is given, step after step; a schedule is followed.

    Args:
        tau: Without a given number the damping is tau times the largest curvature, at least 0.

    Returns:
        The policy.

    Example:
        >>> from fnn import rules
        >>> rule = rules.levenberg_marquardt(1e-2, policy=constant())
    """
    require_within("constant", 0, math.inf, tau=tau)
    return Damping(None, tau=tau)


def multiplicative(
    increase: Scalar = 10.0,
    decrease: Scalar = 0.1,
    tau: Scalar = 1e-3,
    minimum: Scalar = 1e-40,
    maximum: Scalar = 1e16,
) -> Damping:
    """One factor for success, one for failure, whatever the gain ratio.

    MATLAB's trainlm calls them mu_inc and mu_dec; its mu is the rule's argument `damping`.

    Args:
        increase: After a rejection, at least 1.
        decrease: After an accepted step, in [0, 1).
        tau: Where an automatic start lies, at least 0.
        minimum: The least damping, at least 0.
        maximum: The most, at least `minimum`. MATLAB's mu_max.

    Returns:
        The policy.

    Source:
        Marquardt (1963), doi:10.1137/0111030, with factors of 10.

    Differs:
        MATLAB starts from mu = 0.001 and stops at mu_max = 1e10, both with the units of the loss;
        here both ends are relative to the curvature, so that scaling the loss changes nothing.

    Example:
        >>> float(multiplicative().increase)
        10.0
    """
    require_within("multiplicative", 1, math.inf, increase=increase)
    require_within("multiplicative", 0, 1, decrease=decrease)
    _require_bounds("multiplicative", tau, minimum, maximum)
    return Damping(_always, decrease, increase, 1.0, tau, minimum, maximum)


def nielsen(
    increase: Scalar = 2.0,
    decrease: Scalar = 1 / 3,
    tau: Scalar = 1e-3,
    minimum: Scalar = 1e-40,
    maximum: Scalar = 1e16,
) -> Damping:
    """A smooth function of the gain ratio; rejections in a row weigh more and more.

        accepted:   damping = damping * max(decrease, 1 - (2 gain - 1)^3)
        rejected:   damping = damping * 2, 4, 8, ...

    Args:
        increase: After a first rejection, and again for each further one, at least 1.
        decrease: The strongest decrease, in [0, 1).
        tau: Where an automatic start lies, at least 0: 1e-6 if the start is good, 1 if not.
        minimum: The least damping, at least 0.
        maximum: The most, at least `minimum`.

    Returns:
        The policy.

    Source:
        Nielsen, "Damping parameter in Marquardt's method", IMM-REP-1999-05 (1999), equation 2.5;
        Madsen, Nielsen and Tingleff, "Methods for non-linear least squares problems" (2004),
        algorithm 3.16.

    Example:
        >>> policy = nielsen()
        >>> [round(float(policy.shrink(policy, gain)), 3) for gain in (0.01, 0.5, 1.0)]
        [1.941, 1.0, 0.333]
    """
    require_within("nielsen", 1, math.inf, increase=increase)
    require_within("nielsen", 0, 1, decrease=decrease)
    _require_bounds("nielsen", tau, minimum, maximum)
    return Damping(_cubic, decrease, increase, increase, tau, minimum, maximum)


def trust_ratio(
    increase: Scalar = 4.0,
    decrease: Scalar = 0.5,
    tau: Scalar = 1e-3,
    minimum: Scalar = 1e-40,
    maximum: Scalar = 1e16,
) -> Damping:
    """Less damping where the model was good, more where it was poor, as trust regions do.

        damping = damping * (increase if gain < 1/4,  decrease if gain > 3/4,  else 1)

    Args:
        increase: After a rejection, or a gain ratio below 1/4; at least 1.
        decrease: After a gain ratio above 3/4, in [0, 1).
        tau: Where an automatic start lies, at least 0.
        minimum: The least damping, at least 0.
        maximum: The most, at least `minimum`.

    Returns:
        The policy.

    Source:
        Nocedal and Wright, Numerical Optimization (2006), algorithm 4.1, its radius read as the
        inverse of the damping. Martens (2010) with factors 3/2 and 2/3.

    Example:
        >>> policy = trust_ratio()
        >>> [float(policy.shrink(policy, gain)) for gain in (0.1, 0.5, 1.0)]
        [4.0, 1.0, 0.5]
    """
    require_within("trust_ratio", 1, math.inf, increase=increase)
    require_within("trust_ratio", 0, 1, decrease=decrease)
    _require_bounds("trust_ratio", tau, minimum, maximum)
    return Damping(_three_way, decrease, increase, 1.0, tau, minimum, maximum)


# In a rule ----------------------------------------------------------------------------------------


def first_damping(
    policy: Damping,
    given: Scalar | None,
    before: Float[Array, ""],
    last_unit: Float[Array, ""],
    unit: Float[Array, ""],
) -> Float[Array, ""]:
    """The damping of an update's first trial.

    Args:
        policy: The policy.
        given: The rule's argument, now; None to start from `tau * unit`.
        before: The damping after the last update.
        last_unit: The unit then; 0 in the first update.
        unit: The unit now.

    Returns:
        The damping after the last update, where there was one and the policy changes it; else the
        start.
    """
    begin = policy.tau * jnp.where(unit > 0, unit, 1) if given is None else given
    changes = policy.shrink is not None
    return jnp.where((last_unit > 0) & changes, before, begin).astype(unit.dtype)


def next_damping(
    policy: Damping,
    gain: Float[Array, ""],
    accepted: Bool[Array, ""],
    damping: Float[Array, ""],
    growth: Float[Array, ""],
    unit: Float[Array, ""],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Damping and growth after a trial.

    Args:
        policy: The policy.
        gain: The trial's gain ratio.
        accepted: Whether it was.
        damping: Its damping.
        growth: What a rejection multiplies it by.
        unit: What the bounds are measured in.

    Returns:
        Damping and growth for the next trial.
    """
    if policy.shrink is None:
        return damping, growth
    factor = jnp.where(accepted, policy.shrink(policy, gain), growth)
    bounded = jnp.clip(damping * factor, *_bounds(policy, unit))
    growth = jnp.where(accepted, policy.increase, growth * policy.acceleration)
    return bounded.astype(unit.dtype), growth.astype(unit.dtype)


def is_at_maximum(
    policy: Damping, damping: Float[Array, ""], unit: Float[Array, ""]
) -> Bool[Array, ""]:
    """Whether the damping cannot grow any more.

    Args:
        policy: The policy.
        damping: For the next trial.
        unit: What the bounds are measured in.

    Returns:
        True or False; never True of a constant damping.
    """
    at_end = (unit > 0) & (damping >= policy.maximum * unit)
    return at_end if policy.shrink is not None else jnp.zeros_like(at_end)


def descended_damping(
    state: DampingState,
    least: Float[Array, ""],
    most: Float[Array, ""],
    increase: Scalar,
) -> DampingState:
    """The damping after a step that promised nothing visible.

    Args:
        state: The damping of that step.
        least: The least that there may be.
        most: The most, which says that no other damping is left.
        increase: What a rejection multiplies it by after a descent.

    Returns:
        The damping for the next trial.
    """
    has_failed = state.failed > 0
    # The first factor is 1/16, and each further one the square: six of them pass all dampings.
    factor = jnp.where(state.growth < 1, state.growth**2, 1 / 16).astype(state.growth.dtype)
    # What promised more has failed at less damping: what serves, if anything, lies in between.
    between = jnp.sqrt(state.failed) * jnp.sqrt(state.value)
    lower = jnp.where(has_failed, between, jnp.maximum(least, factor * state.value))
    is_over = jnp.where(has_failed, state.value <= 4 * state.failed, state.value <= least)
    value = jnp.where(is_over, most, lower).astype(state.value.dtype)
    return state._replace(
        value=value,
        growth=jnp.where(has_failed, increase, factor).astype(state.growth.dtype),
        failed=jnp.where(is_over, most, state.failed).astype(state.value.dtype),
    )


def _bounds(policy: Damping, unit: Array) -> tuple[Array, Array]:
    """The least and the most damping."""
    least = jnp.maximum(policy.minimum * unit, jnp.finfo(unit.dtype).tiny)
    return least, jnp.maximum(least, policy.maximum * unit)


# What the policies make of a gain ratio -----------------------------------------------------------


def _always(policy: Damping, gain: Array) -> Array:
    """One factor, whatever the gain."""
    del gain
    return jnp.asarray(policy.decrease)


def _cubic(policy: Damping, gain: Array) -> Array:
    """Nielsen's factor."""
    # Clipped, because where rounding makes the ratio huge its cube would overflow.
    return jnp.maximum(policy.decrease, 1 - (2 * jnp.clip(gain, 0, 1) - 1) ** 3)


def _three_way(policy: Damping, gain: Array) -> Array:
    """More below a gain of 1/4, less above 3/4."""
    return jnp.where(gain < 0.25, policy.increase, jnp.where(gain > 0.75, policy.decrease, 1.0))


def _require_bounds(policy: str, tau: Scalar, minimum: Scalar, maximum: Scalar) -> None:
    """Require bounds in their ranges and in their order."""
    require_within(policy, 0, math.inf, tau=tau, minimum=minimum, maximum=maximum)
    if isinstance(minimum, Real) and isinstance(maximum, Real) and minimum > maximum:
        raise ValueError(
            f"{policy}: expected minimum <= maximum, got {minimum} and {maximum}; try to exchange "
            "them"
        )
