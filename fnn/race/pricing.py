"""What a budget buys: steps for seconds, and whether they are ten.

A price is never taken from one reading. The readings of a run are repeated, with pauses between
them, until the least two agree, and the least counts: what disturbs a run makes it slower.
"""

import math
import time
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from fnn.problems import Budget, Problem
from fnn.race import records
from fnn.race.alone import RunAlone
from fnn.race.compiling import Setting
from fnn.race.entrants import Entrant
from fnn.race.lanes import RunLanes
from fnn.race.laps import ROUNDING
from fnn.race.meter import gradient_flops, in_gradients
from fnn.race.protocol import FEWEST, OFF, TUNING_SEED

_WARM = 0.05
"""The fewest seconds that a measurement of steps lasts, so that the call itself does not count."""
_PAUSE = 0.3
"""Seconds between readings that do not agree: longer than most bursts of other work."""
_MEASUREMENTS = 6
"""How often runs are measured, at most: where no two readings agree, a machine is not quiet."""
_PATIENCE = 10.0
"""Seconds of a run, all readings together, after which no more are taken."""
_PROBE = 3
"""Steps that tell about what ten cost, before anything long runs."""


class Reading(NamedTuple):
    """The least seconds of each run, how far two of one run are apart, and the share waited."""

    seconds: list[float]
    compile_seconds: float
    spread: float
    waited: float


def settled(
    measure: RunAlone, setting: Setting, seeds: Sequence[int], steps: Sequence[int]
) -> Reading:
    """Measures runs until the two least readings of the first one agree."""
    measured: list[list[float]] = []
    again, waited = [], []
    while True:
        # The first run comes last once more: the readings to be compared are apart in time.
        timing = measure(setting, [*seeds, seeds[0]], [*steps, steps[0]])
        *runs, last = timing.seconds
        measured.append(runs)
        again += [runs[0], last]
        waited.append(timing.waited)
        least, second, *_ = sorted(again)
        spread = second / max(least, 1e-9) - 1
        is_enough = len(measured) == _MEASUREMENTS or sum(again) > _PATIENCE
        if spread <= OFF or is_enough:
            seconds = np.min(measured, axis=0)
            seconds[0] = least
            share = float(np.mean(waited))
            return Reading(seconds.tolist(), timing.compile_seconds, spread, share)
        time.sleep(_PAUSE)


def counted_budget(
    budget: Budget, measure: RunAlone, setting: Setting, seeds: Sequence[int]
) -> Budget:
    """The budget of a run in a unit that is counted; one in seconds becomes steps by measuring."""
    if budget.unit != "seconds":
        return budget
    # What a rule tries before a step costs other seconds along the way: whole runs tell.
    guess = bought(budget, _seconds_a_step(measure, setting, seeds[0]))
    seconds = settled(measure, setting, seeds, [guess] * len(seeds)).seconds
    steps = guess * _ratio(budget.amount, float(np.median(seconds)))
    return Budget(round(steps) if steps > 1 else steps, "steps")  # a part of one says what ten cost


def bought(budget: Budget, price: float) -> int:
    """The number of steps that a budget buys at a price, one at least."""
    return max(1, round(_ratio(budget.amount, price)))


def _ratio(amount: float, price: float) -> float:
    """How often an amount pays a price; what is free is paid very often."""
    return amount / max(price, 1e-30)


def _seconds_a_step(measure: RunAlone, setting: Setting, seed: int) -> float:
    """The seconds of a step, from the first run that is long enough to be measured."""
    steps = 1
    while (seconds := measure(setting, [seed], [steps]).seconds[0]) < _WARM:
        steps *= 4
    return seconds / steps


# Ten steps ----------------------------------------------------------------------------------------


def price_of_a_step(
    problem: Problem, entrant: Entrant, run: RunLanes, setting: Setting, budget: Budget
) -> float:
    """About what a step of a rule costs in the unit of a budget, by the first steps."""
    unit = budget.unit
    if unit == "steps":
        return 1.0
    if unit == "examples":
        return float(entrant.examples(problem))
    price = math.inf
    for steps in (1, _PROBE):  # of a rule that has few steps, one is as much as it should cost
        seen = run([setting], [TUNING_SEED], Budget(steps, "steps"))
        flops, model = (float(spent[0, -1]) / steps for spent in (seen.flops, seen.model))
        gradient = gradient_flops(problem) or 1.0
        price = flops if unit == "flops" else in_gradients(flops, model, gradient)
        if expected_steps(budget, price) < _PROBE:
            break
    return price


def expected_steps(budget: Budget, price: float) -> int:
    """About how many steps a run takes, the last of which reaches the budget."""
    return max(1, math.ceil((1 - ROUNDING) * _ratio(budget.amount, price)))


def require_ten_steps(asked: Budget, plans: Sequence[records.Plan]) -> None:
    """Raises where a budget buys ten steps of no rule, and warns where it does not of some."""
    steps = {plan.rule: _ratio(plan.budget[0], plan.price) for plan in plans}
    few = {rule: number for rule, number in steps.items() if number < (1 - OFF) * FEWEST}
    if not few or asked.unit == "steps":
        return
    rule, fewest = min(few.items(), key=lambda item: item[1])
    said = (
        f"race: expected a budget of at least {FEWEST} steps, got {asked.amount:g} {asked.unit}, "
        f"which buys fewer of {', '.join(few)}; try "
        f"{_rounded_up(asked.amount * FEWEST / fewest)} {asked.unit}, which buys {FEWEST} of {rule}"
    )
    if len(few) == len(plans):
        raise ValueError(said)
    warnings.warn(f"{said}. No verdict on these rules will be given.", stacklevel=2)


def _rounded_up(amount: float) -> str:
    """A number of two digits that is not less."""
    unit = 10.0 ** (math.floor(math.log10(amount)) - 1)
    return f"{math.ceil(amount / unit) * unit:.2g}"


# After the fact -----------------------------------------------------------------------------------


def corrected(
    asked: Budget, choice: records.Choice, seconds: Sequence[float], runs: Sequence[records.Run]
) -> records.Choice | None:
    """The choice with a budget in which runs take the seconds that they may; None if they do."""
    shares = _shares(asked, seconds, runs)
    if not len(shares):
        return None
    if choice.budget[1] == "steps" and shares.max() > (1 + OFF) ** 2 * shares.min():
        # Line searches cost one seed more than another: not steps are alike, but nearly flops.
        timed = list(zip(seconds, runs, strict=False))
        rate = float(np.median([run.flops / passed for passed, run in timed]))
        price = float(np.median([run.flops / run.steps for _, run in timed]))
        if rate > 0:
            return choice._replace(budget=[asked.amount * rate, "flops"], price=price)
    share, (amount, unit) = float(np.median(shares)), choice.budget
    if abs(share - 1) <= OFF:
        return None
    amount = bought(Budget(amount, unit), share) if unit == "steps" else amount / share
    return choice._replace(budget=[amount, unit])


def _shares(
    asked: Budget, seconds: Sequence[float], runs: Sequence[records.Run]
) -> Float[np.ndarray, " timed"]:
    """The seconds of each timed run that ended by its budget over this; none in other units."""
    ended = [s for s, run in zip(seconds, runs, strict=False) if run.stopped == "budget"]
    return np.array(ended if asked.unit == "seconds" else []) / asked.amount


def objection(asked: Budget, reading: Reading, runs: Sequence[records.Run]) -> str | None:
    """Why nothing can be said of a rule after these runs, as a sentence; None if it can."""
    steps = [run.steps for run in runs if run.stopped == "budget"]
    taken = float(np.median(steps)) if steps else math.inf
    if taken < FEWEST and asked.unit != "steps":
        needed = _rounded_up(asked.amount * FEWEST / taken)
        return (
            f"its budget bought {taken:g} steps, of which one more or less is over a tenth; try "
            f"{needed} {asked.unit}."
        )
    shares = _shares(asked, reading.seconds, runs)
    if not len(shares):
        return None
    share = float(np.median(shares))
    if reading.spread > OFF:
        return (
            f"the machine was not quiet: two readings of one run are {reading.spread:.0%} apart; "
            "try again when it is, or a budget in gradients."
        )
    if abs(share - 1) > OFF:
        return (
            f"its runs took {share:.2g} times the seconds that they may take, after corrections; "
            "try a budget in gradients."
        )
    return None
