"""The loop of a race: each lane goes on until its own meter has reached the budget.

A lap of a lane ends when its spending passes the next mark, and a lane is looked at between laps.
The marks lie evenly on a logarithmic scale, from the first step to the budget; a lap has one step
at least. Lanes of a `vmap` take their steps together and pause wherever a lap of any lane ends;
only the lanes that are due are looked at. So what is seen of a lane, and the step at which it
stops, does not depend on the others. Lanes whose steps cost the same pause together, `LAPS` times
at most; the others belong to rules whose steps cost more than a look.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Int, PyTree, Scalar

from fnn.branches import in_any_lane
from fnn.dtypes import widest
from fnn.products import dot
from fnn.race.meter import MeterState
from fnn.race.protocol import LAPS
from fnn.training import Limits, Progress, Source, Stop, judge, look

ROUNDING = 1e-6
"""The part of a budget within which it counts as reached: the meter's sum in float32 is off by up
to 2e-7 of it, and ten gradients are to be ten steps of a rule that takes one in each."""
_BESIDE = jnp.iinfo(jnp.int32).max
"""No limit on steps and no patience: the budget alone ends a lane."""


class Allowance(NamedTuple):
    """What a lane may spend, in arrays, so that one program serves budgets in all units.

    Attributes:
        amount: the budget.
        prices: what a step, a flop, and a flop of the model count.
        least: what a step counts at least, so that a rule that spends nothing comes to its end.
    """

    amount: Scalar
    prices: Array
    least: Scalar


class Lane(NamedTuple):
    """A lane between two steps: as it was last looked at, where it is now, and what was seen."""

    progress: Progress  # at the end of its last lap
    params: PyTree
    state: PyTree
    grad: PyTree  # of the last step
    total: Scalar  # of the values since the last lap
    laps: Int[Array, ""]
    first: Scalar  # what its first step cost
    seen: dict[str, Array]


def run_laps(
    rule: optax.GradientTransformationExtraArgs,
    source: Source,
    evaluate: Callable[[Progress], dict[str, Scalar]],
    progress: Progress,
    allowance: Allowance,
) -> tuple[Progress, Int[Array, ""], dict[str, Array]]:
    """Trains a lane to the end of its allowance: a pure function, for `jit` and `vmap`.

    Args:
        rule: one with a meter.
        source: gives each step its value function.
        evaluate: looks at the training after each lap.
        progress: the lane at its start.
        allowance: what it may spend.

    Returns:
        The lane as it was last looked at, the number of its laps, and what was seen after each.
    """

    def take_step(value_fn: Callable[[PyTree], Scalar], lane: Lane) -> Lane:
        value, grad = jax.value_and_grad(value_fn)(lane.params)
        updates, state = rule.update(
            grad, lane.state, lane.params, value=value, grad=grad, value_fn=value_fn
        )
        params = optax.apply_updates(lane.params, updates)
        total = lane.total + value.astype(lane.total.dtype)
        return lane._replace(params=params, state=state, grad=grad, total=total)

    # Clocks are shared by all lanes, and loops are over when they are for all: under vmap a loop
    # whose condition depends on the lane would copy every buffer at every step.
    def run_epoch(carry: tuple[Array, Array, Lane]) -> tuple[Array, Array, Lane]:
        """Steps to the end of the epoch, or until a lap ends before it."""
        epoch, position = jnp.divmod(carry[0], source.steps)
        value_fn_at = source.epoch(epoch)

        def step(carry: tuple[Array, Array, Lane]) -> tuple[Array, Array, Lane]:
            clock, _, lane = carry
            lane = take_step(value_fn_at(clock - epoch * source.steps), lane)
            return clock + 1, in_any_lane(_is_due(lane, clock + 1, allowance)), lane

        last = carry[0] - position + source.steps
        return jax.lax.while_loop(lambda c: (c[0] < last) & ~c[1], step, carry)

    def run_lap(carry: tuple[Array, Lane]) -> tuple[Array, Lane]:
        start = carry[0], jnp.zeros((), bool), carry[1]
        clock, _, lane = jax.lax.while_loop(lambda c: ~c[1], run_epoch, start)
        return clock, _looked_at(lane, clock, evaluate, allowance)

    clock = jnp.zeros((), jnp.int32)
    kinds = jax.eval_shape(evaluate, progress)
    seen = {name: jnp.zeros(LAPS, kind.dtype) for name, kind in kinds.items()}
    value = jax.eval_shape(source.epoch(clock)(clock), progress.params)
    total = jnp.zeros((), widest(value.dtype, jnp.float32))
    first = jnp.zeros_like(allowance.amount)
    lane = Lane(
        progress, progress.params, progress.state, progress.params, total, clock, first,
        seen | {"steps": jnp.zeros(LAPS, jnp.int32)},
    )  # fmt: skip
    _, lane = jax.lax.while_loop(
        lambda c: in_any_lane(c[1].progress.stopped == Stop.RUNNING), run_lap, (clock, lane)
    )
    return lane.progress, lane.laps, lane.seen


def _spent(state: MeterState, steps: Array, allowance: Allowance) -> Scalar:
    """What so many steps have cost, in the unit of the allowance."""
    kind = allowance.amount.dtype
    counted = jnp.stack([steps.astype(kind), *(n[0].astype(kind) for n in state[1:])])
    return jnp.maximum(dot(allowance.prices, counted), allowance.least * steps)


def _is_due(lane: Lane, clock: Array, allowance: Allowance) -> Bool[Array, ""]:
    """Whether a lap of a lane has ended; the first one has a single step."""
    share = jnp.minimum(lane.laps / (LAPS - 1), 1).astype(allowance.amount.dtype)
    mark = lane.first ** (1 - share) * allowance.amount**share
    mark = jnp.where(lane.laps == 0, 0, jnp.where(share < 1, mark, allowance.amount))
    spent = _spent(lane.state, clock, allowance)
    return (lane.progress.stopped == Stop.RUNNING) & (spent >= (1 - ROUNDING) * mark)


def _looked_at(
    lane: Lane,
    clock: Array,
    evaluate: Callable[[Progress], dict[str, Scalar]],
    allowance: Allowance,
) -> Lane:
    """A lane after a pause: judged and looked at where it is due, and otherwise as it was."""
    before, due = lane.progress, _is_due(lane, clock, allowance)
    # Who has stopped is neither judged nor looked at, and who is not due passes for that.
    progress = before._replace(stopped=jnp.where(due, before.stopped, Stop.CALLBACK))
    steps = clock - before.step
    mean = lane.total / steps.astype(lane.total.dtype)
    limits = Limits(steps=_BESIDE, rounds=LAPS)
    progress = judge(progress, lane.params, lane.state, steps, mean, lane.grad, limits)
    progress, evaluated = look(evaluate, progress, _BESIDE)
    spent = _spent(lane.state, clock, allowance)
    is_over = (progress.stopped == Stop.RUNNING) & (spent >= (1 - ROUNDING) * allowance.amount)
    stopped = jnp.where(is_over, Stop.BUDGET, progress.stopped)
    progress = progress._replace(stopped=jnp.where(due, stopped, before.stopped).astype(jnp.int32))
    place = jnp.where(due, lane.laps, LAPS)  # beyond the end, where nothing is written
    evaluated["steps"] = progress.step
    moving = ~due & (progress.stopped == Stop.RUNNING)
    kept = lane.params, lane.state, lane.total
    again = progress.params, progress.state, jnp.zeros_like(lane.total)
    params, state, total = jax.tree.map(lambda a, b: jnp.where(moving, a, b), kept, again)
    return lane._replace(
        progress=progress,
        params=params,
        state=state,
        total=total,
        laps=lane.laps + due,
        first=jnp.where(due & (lane.laps == 0), spent, lane.first),
        seen={
            name: values.at[place].set(evaluated[name].astype(values.dtype), mode="drop")
            for name, values in lane.seen.items()
        },
    )
