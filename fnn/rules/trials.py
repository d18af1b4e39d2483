"""Trials: steps that are proposed, judged and, where they do not lower the value, rejected.

    proposal = propose(damping)
    accepted if the rule has nothing against it and the value is lower: the step, less damping
    rejected otherwise: a step of zero, more damping

All rules that look before they step share this loop. They differ in what they propose and in how
their damping follows the gain ratio. What came of all this stands in the `Info` of their states.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from fnn import solvers
from fnn.rules.damping import Damping, DampingState

VISIBLE = 16
"""A promise is visible above so many roundings of the value, which is a sum and has several."""


class Info(NamedTuple):
    """What came of a rule's steps: it steers nothing, and says the same of every rule.

    Attributes:
        steps: Updates that could have moved the parameters, accepted or not.
        accepted: Trials that moved them; at most one in an update.
        rejected: Trials that did not: the value was not lower, or the step not finite.
        value: Of the parameters that the last update led to, as the rule judges it; None for a rule
            that does not look.
        gain: Gain ratio of the last trial, the decrease that came over the decrease that the model
            promised; 0 where nothing was compared, None for a rule without one.
        stalled: Whether the rule cannot go on: no step that it knows of lowers the value.
        counts: What the solver did; None for a rule that has none.
    """

    steps: Int[Array, ""]
    accepted: Int[Array, ""]
    rejected: Int[Array, ""]
    value: Any  # a number or None
    gain: Any  # a number or None
    stalled: Bool[Array, ""]
    counts: solvers.Counts | None


class Proposal(NamedTuple):
    """A step that a rule would take.

    Attributes:
        step: Tree like the parameters.
        value: Where it leads; None if that does not matter.
        gain: Its gain ratio.
        ok: Whether the rule has nothing against it.
        counts: What the solver did for it.
        length: Of the step, for a damping that follows it.
        promise: The decrease that the model promises, infinite where there is no model; None for a
            damping that does not ask.
    """

    step: PyTree
    value: Float[Array, ""] | None
    gain: Float[Array, ""]
    ok: Bool[Array, ""]
    counts: solvers.Counts | None = None
    length: Any = None  # a number, where it is read
    promise: Any = None  # a number, where it is read


class Policy(NamedTuple):
    """How a damping follows the trials.

    Attributes:
        update: `(damping, proposal, accepted, value) -> damping` after a trial, `value` being that
            of the start.
        is_spent: `damping -> ` whether no further trial is worth its price.
    """

    update: Callable[[DampingState, Proposal, Array, Array], DampingState]
    is_spent: Callable[[DampingState], Bool[Array, ""]]


def by_gain(policy: Damping) -> Policy:
    """How a damping follows the gain ratio of the trials."""

    def update(
        damping: DampingState, proposal: Proposal, accepted: Array, value: Array
    ) -> DampingState:
        if proposal.promise is None:
            return policy.update(damping, proposal.gain, accepted)
        return policy.update(damping, proposal.gain, accepted, is_visible(proposal.promise, value))

    return Policy(update, policy.is_spent)


class Trial(NamedTuple):
    """The last trial of an update; step and value are those of the start where it was rejected.

    Attributes:
        step: Of the parameters.
        value: Where it leads.
        gain: Its gain ratio.
        accepted: Whether it was.
        damping: For the next trial.
        trials: How many there were in the update.
        counts: What the solver did, ever.
    """

    step: PyTree
    value: Float[Array, ""]
    gain: Float[Array, ""]
    accepted: Bool[Array, ""]
    damping: DampingState
    trials: Int[Array, ""]
    counts: solvers.Counts | None


def first_accepted(
    propose: Callable[[DampingState], Proposal],
    policy: Policy,
    params: PyTree,
    value: Float[Array, ""],
    damping: DampingState,
    counts: solvers.Counts | None,
    most: int = 1,
) -> Trial:
    """The first of at most so many trials that is accepted, or the last one."""

    def attempt(last: Trial) -> Trial:
        return judge(propose(last.damping), policy, params, value, last)

    def undecided(last: Trial) -> Array:
        return ~last.accepted & (last.trials < most) & ~policy.is_spent(last.damping)

    start = Trial(
        step=optax.tree.zeros_like(params),
        value=value,
        gain=jnp.zeros_like(value),
        accepted=jnp.zeros((), bool),
        damping=damping,
        trials=jnp.zeros((), jnp.int32),
        counts=counts,
    )
    return attempt(start) if most == 1 else jax.lax.while_loop(undecided, attempt, start)


def judge(
    proposal: Proposal, policy: Policy, params: PyTree, value: Float[Array, ""], last: Trial
) -> Trial:
    """The trial after the last one."""
    accepted, reached = proposal.ok, value
    if proposal.value is not None:
        after = optax.apply_updates(params, proposal.step)
        accepted &= is_lower(proposal.value, value) & differ(after, params)
        reached = jnp.where(accepted, proposal.value, value)
    counts = last.counts
    if counts is not None:
        counts = jax.tree.map(jnp.add, counts, proposal.counts)
    return Trial(
        step=where_accepted(accepted, proposal.step),
        value=reached,
        gain=proposal.gain,
        accepted=accepted,
        damping=policy.update(last.damping, proposal, accepted, value),
        trials=last.trials + 1,
        counts=counts,
    )


def where_accepted(accepted: Bool[Array, ""], tree: PyTree) -> PyTree:
    """The tree, or zeros of a step that was rejected."""
    return jax.tree.map(lambda leaf: jnp.where(accepted, leaf, 0), tree)


def is_lower(reached: Array, value: Array) -> Bool[Array, ""]:
    """Whether a value is finite and lower by more than rounding: at a minimum none is."""
    return jnp.isfinite(reached) & exceeds_rounding(value - reached, value)


def is_visible(promise: Array, value: Array) -> Bool[Array, ""]:
    """Whether a promised decrease would be seen in the value, rounding or not."""
    return exceeds_rounding(promise / VISIBLE, value)


def exceeds_rounding(decrease: Array, value: Array) -> Bool[Array, ""]:
    """Whether a decrease of a value can be told from rounding; that of a value of NaN can."""
    return ~(decrease <= jnp.finfo(value.dtype).eps * jnp.abs(value))


def differ(one: PyTree, other: PyTree) -> Bool[Array, ""]:
    """Whether any two numbers of two trees differ."""
    changed = jax.tree.leaves(jax.tree.map(lambda a, b: jnp.any(a != b), one, other))
    return functools.reduce(jnp.logical_or, changed)


# The info of a state ------------------------------------------------------------------------------


def no_info(dtype: Any = None, *, gain: bool = True, counts: bool = True) -> Info:
    """The info before the first step; without a dtype, of a rule that does not look."""
    count = jnp.zeros((), jnp.int32)
    number = None if dtype is None else jnp.zeros((), dtype)
    return Info(
        steps=count,
        accepted=count,
        rejected=count,
        value=number,
        gain=number if gain else None,
        stalled=jnp.zeros((), bool),
        counts=solvers.Counts.of() if counts else None,
    )


def info_after(
    info: Info, accepted: Bool[Array, ""], trials: int | Int[Array, ""] = 1, **fields: Any
) -> Info:
    """The info after so many trials of which the last may be accepted, other fields given."""
    moved = accepted.astype(jnp.int32)
    return info._replace(
        steps=info.steps + 1,
        accepted=info.accepted + moved,
        rejected=info.rejected + trials - moved,
        **fields,
    )


def info_after_trial(info: Info, trial: Trial, policy: Policy) -> Info:
    """The info after an update's last trial."""
    value, gain = info.value, info.gain
    return info_after(
        info,
        trial.accepted,
        trial.trials,
        value=None if value is None else trial.value.astype(value.dtype),
        gain=None if gain is None else trial.gain.astype(gain.dtype),
        stalled=~trial.accepted & (trial.damping.unit > 0) & policy.is_spent(trial.damping),
        counts=trial.counts,
    )
