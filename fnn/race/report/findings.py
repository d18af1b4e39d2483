"""The findings of a race, as the numbers that tables and figures show: rules from best to worst.

Rules are ordered and compared by the lowest validation loss of each fresh seed, because their
settings were chosen for it. Only seeds that all rules have in common are compared. A race must have
results of at least one rule; every table and figure raises the ValueError of this file otherwise.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from fnn import plots
from fnn.race.report import statistics
from fnn.race.result import Race, Result


def comparison(race: Race) -> statistics.Comparison:
    """Every rule beside the best, by its lowest validation loss; the lowest median comes first."""
    return statistics.compare(finals(race))


def finals(race: Race) -> dict[str, Float[np.ndarray, " seeds"]]:
    """Each rule's lowest validation losses, over the seeds that all rules have in common."""
    return {r.rule: or_infinity(r.validation[rows, -1]) for r, rows in _common(race)}


def ordered(race: Race) -> list[Result]:
    """The results from the best rule to the worst."""
    place = {rule: i for i, rule in enumerate(comparison(race).standings)}
    return sorted(race.results, key=lambda result: place[result.rule])


def losses(results: Sequence[Result], cost: str, *, train: bool) -> dict[str, plots.Curve]:
    """A curve for each rule, one repetition for each seed, over one of `problems.COSTS`."""
    return {
        r.rule: plots.Curve(r.costs[cost], or_infinity(r.train if train else r.validation))
        for r in results
    }


def arrivals(race: Race, cost: str) -> dict[str, Float[np.ndarray, " seeds"]]:
    """The cost until the target of each seed of each rule, infinity for a miss; rules in order."""
    return {r.rule: r.to_target(race.header["target"], cost) for r in ordered(race)}


def profile(races: Sequence[Race], cost: str) -> statistics.PerformanceProfile:
    """How often each rule is nearly the first, over the seeds of one race or over several races."""
    if len(races) == 1:
        target = races[0].header["target"]
        spent = {r.rule: r.to_target(target, cost)[rows] for r, rows in _common(races[0])}
        return statistics.performance_profile({rule: spent[rule] for rule in _names(races[0])})
    return statistics.performance_profile(_medians([arrivals(race, cost) for race in races]))


def ranks(races: Sequence[Race]) -> statistics.CriticalDifference | None:
    """Mean ranks over the seeds of one race, or over several races; None for fewer than two."""
    each = [finals(race) for race in races]
    values = each[0] if len(each) == 1 else _medians(each)
    if len(values) < 2 or len(next(iter(values.values()))) < 2:
        return None
    return statistics.critical_difference(values)


def sweeps(race: Race) -> dict[str, dict[str, plots.Sweep]]:
    """The short trials' losses against each hyperparameter of which a rule tried several values.

    The values are numbers above 0, and the trials all have one length: losses of the final, whose
    runs are longer, stand in no sweep.

    Args:
        race: the race.

    Returns:
        By hyperparameter and rule, the sweeps.
    """
    curves: dict[str, dict[str, plots.Sweep]] = {}
    for result in ordered(race):
        for name in dict.fromkeys(name for setting in result.settings for name in setting):
            having = [i for i, s in enumerate(result.settings) if _is_positive(s.get(name))]
            values = np.array([result.settings[i][name] for i in having], dtype=float)
            if len(np.unique(values)) > 1:
                sweep = plots.Sweep(values, or_infinity(result.tuning[having]))
                curves.setdefault(name, {})[result.rule] = sweep
    return curves


def _is_positive(value: Any) -> bool:
    """Whether a value is a number above 0; a hyperparameter may be a text, or True."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def good_range(sweep: plots.Sweep, name: str) -> statistics.Sensitivity:
    """How wide the range of a hyperparameter is whose loss is at most half above the best."""
    settings = [{name: float(value)} for value in sweep.setting]
    best = np.min(np.median(sweep.loss, axis=1))
    tolerance = 0.5 * abs(float(best)) if np.isfinite(best) else 0.0
    return statistics.sensitivity(settings, sweep.loss, name, tolerance=tolerance)


def measures(race: Race, result: Result) -> Float[np.ndarray, " seeds"]:
    """The problem's measure of each seed, infinitely bad where it is not finite."""
    worst = -np.inf if race.header["highest"] else np.inf
    return np.where(np.isfinite(result.test), result.test, worst)


def or_infinity(losses: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Losses with infinity in place of all that is not finite."""
    return np.where(np.isfinite(losses), losses, np.inf)


def _medians(races: Sequence[dict[str, Float[np.ndarray, " seeds"]]]) -> dict[str, np.ndarray]:
    """For each rule that takes part in all races, the median of its seeds in each."""
    rules = [rule for rule in races[0] if all(rule in values for values in races)]
    return {rule: np.array([np.median(values[rule]) for values in races]) for rule in rules}


def _names(race: Race) -> list[str]:
    """The rules, from the best to the worst."""
    return list(comparison(race).standings)


def _common(race: Race) -> list[tuple[Result, list[int]]]:
    """Each result with the places of the seeds that all results have."""
    if not race.results:
        raise ValueError(
            f"report of {race.header.get('problem')}: expected results of at least one rule, got "
            "none; let the race finish one"
        )
    shared = set.intersection(*(set(result.seeds) for result in race.results))
    if not shared:
        raise ValueError(
            f"report of {race.header.get('problem')}: expected rules with seeds in common, got "
            f"{ {result.rule: result.seeds for result in race.results} }; race them again"
        )
    return [(r, [i for i, seed in enumerate(r.seeds) if seed in shared]) for r in race.results]
