"""Trials: steps that are proposed, judged and, where they do not lower the value, rejected.

    proposal = propose(damping)
    accepted if the rule has nothing against it and the value is lower: the step, less damping
    rejected otherwise: a step of zero, more damping

All rules that look before they step share this loop. They differ in what they propose and in how
their damping follows the gain ratio. What came of all this stands in the `Info` of their states.

A rule sees no more than its own step. What follows it in a chain, or wraps it, may change the step
after it was judged: bounds (`optax.keep_params_nonnegative`), a factor, noise. The next update sees
by the parameters that they are not those that the accepted step led to, unless the change is within
the rounding of all parameters together (in half precision some percent), and counts it in
`info.changed`. Where the step that was taken brought little of what the accepted one had, nothing
was learned about it, and the damping is that from before; only rejections, which say that a step
was too long, then move it.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from fnn import solvers
from fnn.branches import where_due
from fnn.curvature import Operator
from fnn.dtypes import wide, widest
from fnn.reductions import all_of, stacked, total
from fnn.rules.damping import Damping, DampingState, Verdict

SHARE = 1 / 4
"""A changed step teaches if it brought so much of what the accepted one had: half of a step to the
minimum brings 3/4. Were nothing learned of it, the damping could only rise, by rejections."""

VISIBLE = 16
"""A promise is visible above so many roundings of the value, which is a sum and has several."""


class Outlook(NamedTuple):
    """What a rule's model has at its minimum along the last direction, however long the step was.

    Attributes:
        promise: The decrease there, in the units of the loss.
        reach: How far it lies from the parameters, relative to them, leaf by leaf; infinite where
            the step was shortened so much that its direction says nothing about the distance.
    """

    promise: Float[Array, ""]
    reach: Float[Array, ""]


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
        outlook: What its model still promised; infinite where it promised without bound, and None
            for a rule that does not know.
        counts: What the solver did; None for a rule that has none.
        changed: Accepted steps that the next update found not to be those that were taken; None for
            a rule without a gain ratio.
    """

    steps: Int[Array, ""]
    accepted: Int[Array, ""]
    rejected: Int[Array, ""]
    value: Any  # a number or None
    gain: Any  # a number or None
    stalled: Bool[Array, ""]
    outlook: Outlook | None
    counts: solvers.Counts | None
    changed: Any  # a count or None


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
        outlook: What the model has along it.
    """

    step: PyTree
    value: Float[Array, ""] | None
    gain: Float[Array, ""]
    ok: Bool[Array, ""]
    counts: solvers.Counts | None = None
    length: Any = None  # a number, where it is read
    promise: Any = None  # a number, where it is read
    outlook: Outlook | None = None


class Policy(NamedTuple):
    """How a damping follows the trials.

    Attributes:
        update: `(damping, proposal, accepted, value) -> damping` after a trial, `value` being that
            of the start.
        is_spent: `damping -> ` whether no further trial is worth its price.
        follows: Whether the damping follows them at all.
    """

    update: Callable[[DampingState, Proposal, Array, Array], DampingState]
    is_spent: Callable[[DampingState], Bool[Array, ""]]
    follows: bool = True


def by_gain(policy: Damping) -> Policy:
    """How a damping follows the gain ratio of the trials."""

    def update(
        damping: DampingState, proposal: Proposal, accepted: Array, value: Array
    ) -> DampingState:
        if proposal.promise is None:
            return policy.update(damping, proposal.gain, accepted)
        return policy.update(damping, proposal.gain, accepted, is_visible(proposal.promise, value))

    return Policy(update, policy.is_spent, policy.shrink is not None)


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
        outlook: The least of the update's trials; further trials are more damped and see less.
    """

    step: PyTree
    value: Float[Array, ""]
    gain: Float[Array, ""]
    accepted: Bool[Array, ""]
    damping: DampingState
    trials: Int[Array, ""]
    counts: solvers.Counts | None
    outlook: Outlook


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
        outlook=no_outlook(value.dtype),
    )
    return attempt(start) if most == 1 else jax.lax.while_loop(undecided, attempt, start)


def judge(
    proposal: Proposal, policy: Policy, params: PyTree, value: Float[Array, ""], last: Trial
) -> Trial:
    """The trial after the last one."""
    accepted, reached, verdict = proposal.ok, value, last.damping.verdict
    if proposal.value is not None:
        after = optax.apply_updates(params, proposal.step)
        accepted &= is_lower(proposal.value, value) & differ(after, params)
        reached = jnp.where(accepted, proposal.value, value)
        verdict = _verdict(last.damping, after, accepted, value, reached)
    counts = last.counts
    if counts is not None:
        counts = jax.tree.map(jnp.add, counts, proposal.counts)
    damping = policy.update(last.damping, proposal, accepted, value)
    return Trial(
        step=where_accepted(accepted, proposal.step),
        value=reached,
        gain=proposal.gain,
        accepted=accepted,
        damping=damping._replace(verdict=verdict),
        trials=last.trials + 1,
        counts=counts,
        outlook=_nearer(last.outlook, _trusted(proposal, value)),
    )


# Steps within bounds ------------------------------------------------------------------------------


def landed(value_fn: Any, params: PyTree, step: PyTree) -> PyTree:
    """The step that will be taken: within bounds its projection, see `rules.bounded`."""
    box = getattr(value_fn, "box", None)
    return step if box is None else box.landing(params, step)


def confined(
    solution: solvers.Solution, value_fn: Any, params: PyTree, operator: Callable[[], Operator]
) -> solvers.Solution:
    """A solution whose step is the one that will be taken, with what the model promises for it."""
    if getattr(value_fn, "box", None) is None:
        return solution
    step, model = landed(value_fn, params, solution.step), operator()
    slope = -jnp.asarray(optax.tree.vdot(model.grad, step))
    curvature = jnp.asarray(optax.tree.vdot(step, model.product(step)))
    dtype = solution.reduction.dtype
    return solution._replace(
        step=step,
        reduction=(slope - curvature / 2).astype(dtype),
        curvature_along=curvature.astype(dtype),
    )


# Whether the step was taken -----------------------------------------------------------------------


def unlearned(
    damping: DampingState, params: PyTree, value: Float[Array, ""], policy: Policy
) -> tuple[DampingState, Bool[Array, ""]]:
    """The damping without what a changed step has taught in vain, and whether there was one.

    Args:
        damping: After the last update.
        params: Of this one.
        value: Theirs.
        policy: Says whether the damping follows the trials.

    Returns:
        The damping to begin this update with, and whether the last accepted step was changed.
    """
    verdict = damping.verdict
    if verdict is None:
        return damping, jnp.zeros((), bool)
    mark, rounding = mark_of(params)
    changed = verdict.is_known & (jnp.abs(mark - verdict.mark) > rounding)
    known = damping._replace(verdict=None)
    if policy.follows:
        brought = verdict.start - value >= SHARE * (verdict.start - verdict.reached)
        in_vain = changed & ~brought
        known = jax.tree.map(lambda old, new: jnp.where(in_vain, old, new), verdict.before, known)
    none = verdict._replace(is_known=jnp.zeros((), bool))
    return known._replace(verdict=none), changed


def _verdict(
    damping: DampingState, after: PyTree, accepted: Array, start: Array, reached: Array
) -> Verdict | None:
    """The verdict on a step that leads to some parameters, from the damping that proposed it."""
    if damping.verdict is None:
        return None

    def known(number: Array) -> Array:
        return jnp.where(accepted, number, 0).astype(damping.value.dtype)

    mark, _ = mark_of(after)
    before = damping._replace(verdict=None)
    return Verdict(before, known(start), known(reached), known(mark), accepted)


def mark_of(params: PyTree) -> tuple[Array, Array]:
    """A number by which parameters are told from others, and its rounding."""

    def sums(leaf: Array) -> tuple[Array, Array]:
        numbers = wide(leaf).ravel()
        # Weights of 1 to 2, so that entries that change by turns do not cancel.
        weighted = numbers * (1 + jnp.arange(leaf.size, dtype=numbers.dtype) / leaf.size)
        # The sums of two programs differ by roundings, and where they add many entries of one sign
        # in other orders, by more; those of half a dtype are in the entries.
        rounding = 4 * float(jnp.finfo(leaf.dtype).eps) * max(1, leaf.size**0.5 / 64)
        return jnp.sum(weighted), rounding * jnp.sum(jnp.abs(weighted))

    parts = [jax.vmap(sums)(leaves) for leaves in stacked(jax.tree.leaves(params))]
    marks, roundings = zip(*jax.tree.map(jnp.sum, parts), strict=True)
    return total(marks), total(roundings)


# Judgments ----------------------------------------------------------------------------------------


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
    equal = jax.tree.map(lambda a, b: a == b, one, other)
    return ~all_of([jnp.all(flags) for flags in stacked(jax.tree.leaves(equal))])


# What the model still promises --------------------------------------------------------------------


def is_whole(solution: solvers.Solution) -> Bool[Array, ""]:
    """Whether a solver reached all directions: of those that it cuts off a step says nothing."""
    return solution.ok & (solution.counts.eigen == 0)


def no_outlook(dtype: Any) -> Outlook:
    """Nothing is known: what might be gained has no bound."""
    most = jnp.array(jnp.finfo(dtype).max)  # infinity is an error under jax_debug_infs
    return Outlook(most, most)


def outlook_of(params: PyTree, solution: solvers.Solution) -> Outlook:
    """What a quadratic model has along the direction of its solution."""
    curvature = solution.curvature_along
    slope = solution.reduction + curvature / 2
    return outlook_along(params, solution.step, slope, curvature, solution.ok)


def outlook_along(
    params: PyTree, step: PyTree, slope: Array, curvature_along: Array, ok: Bool[Array, ""]
) -> Outlook:
    """What a quadratic model has along a step d, with slope = -g . d and d . C d."""
    # It is lowest at slope / (d . C d) times d, where it lies slope^2 / (2 d . C d) lower: damping
    # makes d short, and changes this little.
    most = jnp.finfo(slope.dtype).max
    is_still = ok & (slope == 0) & (curvature_along >= 0)
    # Of a step that is damped to less than its 10,000th the direction says nothing about the rest.
    is_told = ok & (curvature_along > 1e-4 * slope) & (slope > 0)
    is_whole = is_told & (slope <= 2 * curvature_along)
    promise = slope * (slope / (2 * jnp.where(is_told, curvature_along, 1)))
    reach = relative_length(params, step).astype(slope.dtype)
    return Outlook(
        promise=jnp.where(is_still, 0, jnp.where(is_told, promise, most)),
        reach=jnp.where(is_still, 0, jnp.where(is_whole, reach, most)),
    )


def outlook_of_each(
    params: PyTree,
    along: Outlook,
    stalled: Bool[Array, ""],
    value: Float[Array, ""],
    gradient_and_diagonal: Callable[[], tuple[PyTree, PyTree]],
) -> Outlook:
    """The outlook along a step; where it has next to nothing, that of each parameter alone, too."""
    # Damping keeps a step away from directions of little curvature, and what a model has along the
    # step says nothing of what it has there; along the last step of a stall it says nothing at all.
    # MINPACK's cosine of each column does.
    share, most = jnp.sqrt(jnp.finfo(value.dtype).eps), jnp.finfo(value.dtype).max
    is_near = (along.promise <= share * jnp.abs(value)) | (along.reach <= share)

    def of_each() -> Outlook:
        grad, diagonal = gradient_and_diagonal()
        step = jax.tree.map(_to_the_lowest, grad, diagonal)
        promises = jax.tree.map(lambda g, d: jnp.max(jnp.abs(g * d), initial=0) / 2, grad, step)
        promise = functools.reduce(jnp.maximum, jax.tree.leaves(promises))
        alone = Outlook(jnp.minimum(promise, most / 2), relative_length(params, step))
        return jax.tree.map(
            lambda a, b: jnp.where(stalled, b, jnp.maximum(a, b)).astype(a.dtype), along, alone
        )

    return where_due(is_near | stalled, of_each, along)


def _to_the_lowest(slope: Array, curvature: Array) -> Array:
    """The step of each parameter alone to the lowest point of its parabola, or very far."""
    flattest = jnp.finfo(curvature.dtype).tiny * jnp.maximum(jnp.abs(slope), 1)
    return jnp.where(slope == 0, 0, slope / jnp.maximum(curvature, flattest))


def relative_length(params: PyTree, step: PyTree) -> Array:
    """The greatest ratio, over the leaves, of the length of a step to that of the parameters."""

    def ratio(leaf: Array, change: Array) -> Array:
        change = change.astype(widest(change.dtype, jnp.float32)).ravel()
        length, moved = jnp.linalg.norm(leaf.astype(change.dtype).ravel()), jnp.linalg.norm(change)
        least = jnp.finfo(change.dtype).tiny  # beside parameters of 0 every step is long
        return jnp.where(moved > 0, moved / jnp.maximum(length, least * jnp.maximum(moved, 1)), 0)

    return functools.reduce(jnp.maximum, jax.tree.leaves(jax.tree.map(ratio, params, step)))


def _trusted(proposal: Proposal, value: Array) -> Outlook | None:
    """The outlook of a proposal, unknown where visibly more came than the model had promised."""
    if proposal.outlook is None or proposal.value is None:
        return proposal.outlook
    decrease = value - proposal.value
    is_wrong = is_visible(decrease, value) & (decrease > 2 * proposal.outlook.promise)
    unknown = no_outlook(value.dtype)
    return jax.tree.map(lambda a, b: jnp.where(is_wrong, a, b), unknown, proposal.outlook)


def _nearer(one: Outlook, other: Outlook | None) -> Outlook:
    """The lesser of two outlooks, number by number."""
    if other is None:
        return one
    return jax.tree.map(lambda a, b: jnp.minimum(a, b).astype(a.dtype), one, other)


# The info of a state ------------------------------------------------------------------------------


def no_info(
    dtype: Any,
    *,
    looks: bool = True,
    gain: bool = True,
    outlook: bool = False,
    counts: bool = True,
) -> Info:
    """The info before the first step: of a rule that looks where a step leads, and has the rest."""
    count = jnp.zeros((), jnp.int32)
    number = jnp.zeros((), dtype) if looks else None
    return Info(
        steps=count,
        accepted=count,
        rejected=count,
        value=number,
        gain=number if gain else None,
        stalled=jnp.zeros((), bool),
        outlook=no_outlook(dtype) if outlook else None,
        counts=solvers.Counts.of() if counts else None,
        changed=count if gain and looks else None,
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


def info_after_trial(info: Info, trial: Trial, policy: Policy, changed: Bool[Array, ""]) -> Info:
    """The info after an update's last trial, the step before it changed or not."""
    value, gain = info.value, info.gain
    return info_after(
        info,
        trial.accepted,
        trial.trials,
        value=None if value is None else trial.value.astype(value.dtype),
        gain=None if gain is None else trial.gain.astype(gain.dtype),
        stalled=~trial.accepted & (trial.damping.unit > 0) & policy.is_spent(trial.damping),
        outlook=outlook_like(info.outlook, trial.outlook),
        counts=trial.counts,
        changed=None if info.changed is None else info.changed + changed.astype(jnp.int32),
    )


def outlook_like(before: Outlook | None, outlook: Outlook) -> Outlook | None:
    """An outlook in the dtype of the one before; None for a rule that has none."""
    if before is None:
        return None
    return jax.tree.map(lambda new, old: new.astype(old.dtype), outlook, before)
