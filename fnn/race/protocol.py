"""The terms of a race, equal for all: how rules are tuned and what a run may spend.

In the *external* track the tuning of each rule spends the same, over the rule's own space (see
`search`); seeds that no result is reported of judge its settings by the validation loss. The
chosen setting then runs from fresh seeds, the same for every rule. In the *self-tuning* track,
`trials=0`, a rule runs at its defaults.

A run is worth its lowest validation loss so far: it keeps the parameters that early stopping would
keep, and the test data see no others. One that diverges is worth nothing.

Source: Dahl et al., "Benchmarking neural network training algorithms" (2023), arXiv:2306.07179, for
the two tracks.
"""

from typing import NamedTuple

import numpy as np

from fnn.problems import COSTS, Budget

TUNING_SEED = 2**31 - 1
"""A seed of trials, the largest int32: the seeds of results count from 0."""
TUNING_SEEDS = TUNING_SEED, TUNING_SEED - 1
"""All seeds of trials. Two tell a setting that diverges now and then; a third would leave a third
less to each run."""
ROUNDS = 60
"""The points of a curve: enough for a smooth one on a logarithmic scale."""
HOPELESS = 0.25
"""The share of its budget after which a trial is given up that is no better than its start. With
less, slow starters are lost; with more, hopeless trials cost what the good ones do."""


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
    trials, seeds, (amount, unit) = protocol
    if seeds < 1:
        raise ValueError(f"race: expected seeds of at least 1, got {seeds}; try 5")
    if trials < 0:
        raise ValueError(f"race: expected trials of at least 0, got {trials}; try 0 for defaults")
    if unit not in COSTS:
        raise ValueError(
            f"race: expected a budget in one of {', '.join(COSTS)}, got {unit!r}; try "
            f"Budget({amount}, 'steps'), on the command line --budget '{amount:g} steps'"
        )
    if not 0 < amount < np.inf:
        raise ValueError(f"race: expected a budget above 0 {unit}, got {amount}; try 10 {unit}")
    return protocol


def round_ends(steps: int, rounds: int = ROUNDS) -> np.ndarray:
    """The steps after which a run is evaluated, evenly spaced on a logarithmic scale.

    Args:
        steps: the number of all steps.
        rounds: the number of evaluations, at most.

    Returns:
        Whole numbers that ascend to `steps`.

    Example:
        >>> round_ends(1000, 8).tolist()
        [1, 3, 7, 19, 52, 139, 373, 1000]
    """
    ends = np.rint(np.geomspace(1, steps, rounds)).astype(np.int32)
    return np.unique(np.maximum(ends, np.arange(1, rounds + 1)).clip(max=steps))
