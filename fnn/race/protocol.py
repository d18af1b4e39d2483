"""The terms of a race, equal for all: how rules are tuned and what a run may spend.

In the *external* track the tuning of each rule spends the same, over the rule's own space (see
`search`); seeds that no result is reported of judge its settings by the validation loss. The
chosen setting then runs from fresh seeds, the same for every rule. In the *self-tuning* track,
`trials=0`, a rule runs at its defaults.

What a run may spend is counted while it runs, so that a race repeats to the last bit: a run ends
with the step that reaches its budget. Seconds cannot be counted. They are measured, on runs that
are repeated until two readings agree, and become steps, or flops where one seed takes dearer steps
than another; where the runs then take a tenth more or less than they should, the budget is
corrected and the rule races again, three times at most. Of a rule with fewer than ten steps, or
whose seconds are still off, nothing can be said: the verdict on it is withheld.

A run is worth its lowest validation loss so far: it keeps the parameters that early stopping would
keep, and the test data see no others. One that diverges is worth nothing.

Source: Dahl et al., "Benchmarking neural network training algorithms" (2023), arXiv:2306.07179, for
the two tracks.
"""

import numbers
from typing import NamedTuple

import numpy as np

from fnn.problems import COSTS, Budget

TUNING_SEED = 2**31 - 1
"""A seed of the search, the largest int32: the seeds of results count from 0."""
TUNING_SEEDS = TUNING_SEED, TUNING_SEED - 1
"""All seeds of the search. Two tell a setting that diverges now and then; a third would leave a
third less to each run."""
LAPS = 60
"""The points of a curve, at most: enough for a smooth one on a logarithmic scale."""
FEWEST = 10
"""Steps below which nothing can be said of a rule: one more or less is 10 % of what it spends."""
OFF = 0.1
"""The part by which seconds may be off a budget, and two readings of one run apart."""


class Protocol(NamedTuple):
    """The terms.

    Attributes:
        trials: what the tuning of each rule spends, in whole runs; 0 for its defaults.
        seeds: fresh starting points and orders of examples.
        budget: what a run may spend.
    """

    trials: int
    seeds: int
    budget: Budget


def require_possible(protocol: Protocol) -> Protocol:
    """The same terms; a ValueError if a number is out of its range or a unit is unknown."""
    trials, seeds, budget = protocol
    if seeds < 1:
        raise ValueError(f"race: expected seeds of at least 1, got {seeds}; try 12")
    if trials < 0:
        raise ValueError(f"race: expected trials of at least 0, got {trials}; try 0 for defaults")
    if not isinstance(budget, Budget) or not budget.unit:
        amount, *given = budget if isinstance(budget, tuple) else (budget,)
        named = [unit for unit in given if unit]
        raise ValueError(
            f"race: expected a budget in one of {', '.join(COSTS)}, got "
            f"{budget!r}{'' if named else ' without a unit'}; try "
            f"Budget({amount!r}, {(named or ['steps'])[0]!r})"
        )
    amount, unit = budget
    if isinstance(amount, bool) or not isinstance(amount, numbers.Real):
        raise ValueError(
            f"race: expected a budget of a number, got {amount!r} {unit}; try Budget(10, {unit!r})"
        )
    if unit not in COSTS:
        raise ValueError(
            f"race: expected a budget in one of {', '.join(COSTS)}, got {unit!r}; try "
            f"Budget({amount}, 'steps'), on the command line --budget '{amount:g} steps'"
        )
    if not 0 < amount < np.inf:
        raise ValueError(f"race: expected a budget above 0 {unit}, got {amount}; try 10 {unit}")
    return protocol
