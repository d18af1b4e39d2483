"""The findings of a race, as the numbers that tables and figures show: rules from best to worst.

Rules are ordered and compared by the lowest validation loss of each fresh seed, because their
settings were chosen for it. Only seeds that all rules have in common are compared. A race must have
results of at least one rule; every table and figure raises the ValueError of this file otherwise.

Rules are tested against one of them, the baseline, and nothing else is tested: tables, diagrams and
sentences read the verdicts of `comparison`. All else beside the baseline is a median with its
interval.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from fnn import plots
from fnn.problems import COSTS
from fnn.race.entrants import ENTRANTS
from fnn.race.report import statistics
from fnn.race.report.statistics import Interval
from fnn.race.result import Race, Result

USUAL = "adam"
"""The rule that most people would have taken: the baseline of races where it takes part."""
FAMILIAR = "adam", "levenberg_marquardt", "kfac", "newton", "lbfgs", "sgd"
"""Rules that are often raced against each other: each has one of the seven colors, and the first
of the users' own has the seventh."""


def comparison(race: Race, baseline: str | None = None) -> statistics.Comparison:
    """Every rule beside the baseline, by its lowest validation loss; the lowest median is first."""
    known = _baseline([race], baseline)
    return statistics.compare(finals(race), known, withheld=race.withheld)


def _baseline(races: Sequence[Race], named: str | None) -> str | None:
    """The baseline of races: the named one, which must be in all, or the usual one; or None."""
    if named is None:
        sound = all(
            USUAL in {r.rule for r in race.results} and USUAL not in race.withheld for race in races
        )
        return USUAL if sound else None
    for race in races:
        rules = [result.rule for result in race.results]
        if named not in rules:
            why = [f" ({c})" for c in race.caveats if c.startswith((f"{named} was", f"{named} is"))]
            raise ValueError(
                f"report of {race.header.get('problem')}: expected a baseline that is in the race, "
                f"got {named!r}{''.join(why)}; try one of {', '.join(rules)}"
            )
    return named


def unit(race: Race) -> str:
    """What the budget of the race is counted in, one of `problems.COSTS`."""
    return race.header["protocol"]["budget"][-1]


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
    return over_problems(races, cost)


def over_problems(races: Sequence[Race], cost: str) -> statistics.PerformanceProfile:
    """How often each rule is nearly the first, over the problems; the best score comes first.

    Args:
        races: a race for each problem.
        cost: one of `problems.COSTS`.

    Returns:
        Ratios to the first rule and scores, of every rule that takes part in any race.
    """
    medians = [
        {rule: float(np.median(spent)) for rule, spent in arrivals(race, cost).items()}
        for race in races
    ]
    rules = dict.fromkeys(rule for race in medians for rule in race)
    profile = statistics.performance_profile({
        rule: np.array([race.get(rule, np.inf) for race in medians]) for rule in rules
    })
    by_score = sorted(rules, key=lambda rule: -profile.scores[rule])
    return profile._replace(
        ratios={rule: profile.ratios[rule] for rule in by_score},
        scores={rule: profile.scores[rule] for rule in by_score},
    )


def ranks(races: Sequence[Race], baseline: str | None = None) -> statistics.Comparison | None:
    """Ranks over the seeds of one race, or over problems; None for fewer than two of either."""
    if len(races) == 1:
        compared = comparison(races[0], baseline)
    else:
        medians = _medians([finals(race) for race in races])
        if not medians:
            return None
        # The units are problems, the losses of which have other scales: ranks stand for them.
        table = stats.rankdata(list(medians.values()), axis=0)
        known = _baseline(races, baseline)
        withheld = {rule for race in races for rule in race.withheld}
        compared = statistics.compare(
            dict(zip(medians, table, strict=True)), known, withheld=withheld
        )
    return compared if len(compared.standings) > 1 and compared.seeds > 1 else None


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


# Beside the baseline ------------------------------------------------------------------------------


class Beside(NamedTuple):
    """A rule beside the baseline, seed by seed: each a median between the ends of its interval.

    Differences are the rule's value less the baseline's, and 0 where both are infinite. Ratios are
    its cost over the baseline's: infinity where the rule alone missed, 0 where the baseline alone
    did, 1 where both did.

    Attributes:
        standing: the verdict, of the lowest validation losses.
        validation: the difference of the lowest validation losses.
        train: the difference of the training losses at the end: optimization.
        test: the difference of the problem's measure: generalization.
        to_its_loss: the ratio of costs until the validation loss was as low as the baseline's
            lowest with the same seed, by `problems.COSTS`.
        to_target: the ratio of costs until the target, likewise.
    """

    standing: statistics.Standing
    validation: Interval
    train: Interval
    test: Interval
    to_its_loss: dict[str, Interval]
    to_target: dict[str, Interval]


def beside(race: Race, baseline: str | None = None) -> dict[str, Beside]:
    """Every other rule beside the baseline, from the lowest median validation loss up."""
    compared = comparison(race, baseline)
    at_same_seeds = {result.rule: _rows(result, rows) for result, rows in _common(race)}
    other = at_same_seeds[compared.baseline]
    return {
        rule: _beside(race, standing, at_same_seeds[rule], other)
        for rule, standing in compared.standings.items()
        if rule != compared.baseline
    }


def _beside(race: Race, standing: statistics.Standing, rule: Result, other: Result) -> Beside:
    """A rule beside another one, which has the same seeds in the same order."""
    lowest, others_lowest = (or_infinity(each.validation[:, -1]) for each in (rule, other))
    others_arrived = np.isfinite(others_lowest)
    arrived = others_arrived | np.isfinite(lowest)  # it came further than one that was lost

    def to_its_loss(cost: str) -> Interval:
        spent = np.where(arrived, rule.to_target(others_lowest, cost), np.inf)
        return _ratio(spent, np.where(others_arrived, other.to_target(others_lowest, cost), np.inf))

    def to_target(cost: str) -> Interval:
        target = race.header["target"]
        return _ratio(rule.to_target(target, cost), other.to_target(target, cost))

    return Beside(
        standing,
        _difference(lowest, others_lowest),
        _difference(or_infinity(rule.train[:, -1]), or_infinity(other.train[:, -1])),
        _difference(measures(race, rule), measures(race, other)),
        {cost: to_its_loss(cost) for cost in COSTS},
        {cost: to_target(cost) for cost in COSTS},
    )


def _difference(a: Float[np.ndarray, " seeds"], b: Float[np.ndarray, " seeds"]) -> Interval:
    """The median of the first less the second; 0 where they are equal, infinite ones among them."""
    return statistics.median_interval(np.subtract(a, b, where=a != b, out=np.zeros_like(a)))


def _ratio(a: Float[np.ndarray, " seeds"], b: Float[np.ndarray, " seeds"]) -> Interval:
    """The median of the first over the second; 1 where they are equal, infinite ones among them."""
    ratios = np.divide(a, b, where=(a != b) & (b > 0), out=np.where(a == b, 1.0, np.inf))
    return statistics.median_interval(ratios)


def _rows(result: Result, rows: list[int]) -> Result:
    """A result with some of its seeds."""
    return result._replace(
        seeds=[result.seeds[row] for row in rows],
        costs={name: cost[rows] for name, cost in result.costs.items()},
        train=result.train[rows],
        validation=result.validation[rows],
        test=result.test[rows],
    )


def measures(race: Race, result: Result) -> Float[np.ndarray, " seeds"]:
    """The problem's measure of each seed, infinitely bad where it is not finite."""
    worst = -np.inf if race.header["highest"] else np.inf
    return np.where(np.isfinite(result.test), result.test, worst)


def or_infinity(losses: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Losses with infinity in place of all that is not finite."""
    return np.where(np.isfinite(losses), losses, np.inf)


def looks(races: Sequence[Race]) -> dict[str, plots.Style]:
    """The look of each rule: one of ours has it in every race, users' own have theirs by name."""
    adam, *ours = dict.fromkeys([*FAMILIAR, *ENTRANTS])
    own = {result.rule for race in races for result in race.results} - {adam, *ours}
    first, *others = sorted(own) or [""]
    return plots.styles([adam, first, *ours, *others])


def _medians(races: Sequence[dict[str, Float[np.ndarray, " seeds"]]]) -> dict[str, np.ndarray]:
    """For each rule that takes part in all races, the median of its seeds in each."""
    rules = [rule for rule in races[0] if all(rule in values for values in races)]
    return {rule: np.array([np.median(values[rule]) for values in races]) for rule in rules}


def _names(race: Race) -> list[str]:
    """The rules, from the best to the worst."""
    return list(comparison(race).standings)


def _common(race: Race) -> list[tuple[Result, list[int]]]:
    """Each result with the places of the seeds that all results have, in the same order."""
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
    return [(r, [r.seeds.index(seed) for seed in sorted(shared)]) for r in race.results]
