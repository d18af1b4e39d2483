"""A race in sentences: its answer, what its verdicts are made of, and what speaks against them."""

import math
from collections.abc import Sequence

import numpy as np

from fnn.race.report import findings, statistics
from fnn.race.report.wording import (
    SCOPE,
    against,
    count,
    listed,
    number,
    p_value,
    spelled,
    wilcoxon,
)
from fnn.race.result import Race


def summary(race: Race, baseline: str | None = None) -> str:
    """The race in a few sentences, the first of which answers.

    Who ended lowest, and whether the test tells it from the baseline; at what share of its cost;
    how the others stand beside it; who trains best, and who generalizes best; who came first.

    Args:
        race: the race.
        baseline: the rule that the others are tested against; `adam` where it takes part, or else
            the best, if None.

    Returns:
        The sentences.
    """
    compared = findings.comparison(race, baseline)
    sentences = [_answer(race, compared)]
    sound = [rule for rule in compared.standings if rule not in race.withheld]
    if len(sound) > 1:
        if compared.baseline in sound and compared.seeds >= statistics.MINIMUM_SEEDS:
            sentences.append(_share_of_its_cost(race, compared.baseline, sound))
        sentences += [*_others(compared), _apart(race, sound)]
    if sound:
        sentences.append(_first_at_the_target(race, sound))
    return " ".join(f"{sentence}." for sentence in sentences)


def _answer(race: Race, compared: statistics.Comparison) -> str:
    """Who ended lowest, and what the test says of it."""
    best, other = compared.best, compared.baseline
    others = [rule for rule in compared.standings if rule != best]
    interval = statistics.median_interval(findings.finals(race)[best])
    low, middle, high = (number(float(value)) for value in interval)
    seeds = count(compared.seeds, "seed")
    few = compared.seeds < statistics.INTERVAL_SEEDS
    between = f"{seeds} from {low} to {high}" if few else f"95 % interval {low} to {high}, {seeds}"
    said = (
        f"On {race.header['problem']}, at equal {findings.unit(race)}, {best} ended with the "
        f"lowest median validation loss, {middle} ({between})"
    )
    if not others:
        return said
    for rule in dict.fromkeys([best, other]):
        if rule in race.withheld:
            return f"{said}; there is no verdict on {rule}: {race.withheld[rule].rstrip('.')}"
    if compared.seeds < statistics.MINIMUM_SEEDS:
        rest = "the other rule is" if len(others) == 1 else "the other rules are"
        asked = f"{rest} worse" if best == other else f"it is better than {other}"
        return f"{said}; these are too few seeds to tell whether {asked}"
    if best == other:
        return f"{said}; {', '.join(_clauses(compared, others, 'it'))}"
    standing = compared.standings[best]
    return f"{said}; it {_SAID[standing.verdict][0]} {other} ({p_value(standing.p)})"


_SAID = {
    "better": ("is better than", "are better than"),
    "not told apart": ("is not told apart from", "are not told apart from"),
    "differs": (
        "differs, by its ranks and against its median, from",
        "differ, by their ranks and against their medians, from",
    ),
    "worse": ("is worse than", "are worse than"),
    "withheld": ("has no verdict beside", "have no verdict beside"),
}
"""What a verdict says of one rule and of several, beside the baseline."""


def _clauses(compared: statistics.Comparison, rules: Sequence[str], other: str) -> list[str]:
    """What the verdicts say of rules, those of one verdict in one clause."""
    named = {v: [r for r in rules if compared.standings[r].verdict == v] for v in _SAID}
    named = {verdict: alike for verdict, alike in named.items() if alike}
    clauses = []
    for i, (verdict, alike) in enumerate(named.items()):
        subject, several = listed(alike), len(alike) > 1
        if several and i == len(named) - 1:
            every = "both" if len(alike) == 2 else f"all {len(alike)}"
            subject = f"the other {len(alike)}" if i else f"{every} others"
        clauses.append(f"{subject} {_SAID[verdict][several]} {other}")
    return clauses


def _share_of_its_cost(race: Race, baseline: str, sound: Sequence[str]) -> str:
    """The share of the baseline's cost at which the best, or else the first, has its loss."""
    unit, apart = findings.unit(race), findings.beside(race, baseline)
    shares = {rule: apart[rule].to_its_loss for rule in sound if rule != baseline}
    leads = sound[0] == baseline
    rule = min(shares, key=lambda rule: float(shares[rule][unit].median)) if leads else sound[0]
    reaches = f"{baseline}'s final validation loss"
    if not math.isfinite(shares[rule][unit].median):
        who = "No other rule reaches" if leads else f"{rule} does not reach"
        return f"{who} {reaches} with most of its seeds"
    # The first of several was chosen by this very share: an interval would be too narrow for it.
    chosen = leads and len(shares) > 1
    of = [
        f"{number(float(share.median)) if chosen else spelled(share)} of its {cost}"
        for cost, share in shares[rule].items()
        if cost in (unit, "seconds")
    ]
    said = f"in {' and '.join(of)}"
    if chosen:
        return f"The first other rule to reach {reaches} is {rule}, {said}"
    return f"{rule} reaches {reaches} {said}"


def _others(compared: statistics.Comparison) -> list[str]:
    """How all but the best stand beside the baseline, where that is another rule."""
    both = compared.best, compared.baseline
    rules = [rule for rule in compared.standings if rule not in both]
    if compared.best == compared.baseline or not rules:
        return []
    said = ", ".join(_clauses(compared, rules, compared.baseline))
    said = said[:1].upper() + said[1:] if said.startswith(("all ", "both ")) else said
    return [said] if said else []


def _apart(race: Race, sound: Sequence[str]) -> str:
    """Who is best in training, and who on test data: optimization apart from generalization."""
    highest, measure = race.header["highest"], race.header["measure"]
    trained, tested = (
        {
            r.rule: statistics.median_interval(of(r))
            for r in findings.ordered(race)
            if r.rule in sound
        }
        for of in (
            lambda r: findings.or_infinity(r.train[:, -1]),
            lambda r: findings.measures(race, r),
        )
    )
    first = min(trained, key=lambda rule: float(trained[rule].median))
    sign = -1 if highest else 1
    second = min(tested, key=lambda rule: sign * float(tested[rule].median))
    return (
        f"{first} has the lowest training loss at the end, {spelled(trained[first])}, and "
        f"{'also' if first == second else second} the {'highest' if highest else 'lowest'} test "
        f"{measure}, {spelled(tested[second])}"
    )


def _first_at_the_target(race: Race, sound: Sequence[str]) -> str:
    """Who reached the target first, in what the budget is counted in."""
    best, costs = sound[0], dict.fromkeys([findings.unit(race), "seconds"])
    spent = {
        cost: {rule: float(np.median(s)) for rule, s in findings.arrivals(race, cost).items()}
        for cost in costs
    }
    ranking = spent[findings.unit(race)]
    first = min(sound, key=lambda rule: ranking[rule])
    target = f"{race.header['target']:.4g}"
    if not math.isfinite(ranking[first]):
        return f"No rule reached the target of {target} with most of its seeds"

    def after(rule: str) -> str:
        unit, *others = (f"{number(spent[cost][rule])} {cost}" for cost in costs)
        return f"{unit} ({', '.join(others)})" if others else unit

    too = f"{best}, too" if first == best else first
    said = f"The first at the target of {target} was {too}, after {after(first)} in the median"
    if first == best:
        return said
    missed = not math.isfinite(ranking[best])
    return f"{said}; {best} {'missed it with most seeds' if missed else f'took {after(best)}'}"


def policy(compared: statistics.Comparison, units: str = "seeds") -> str:
    """The hypotheses, the test, its units and its correction, as every view of a race says them.

    Args:
        compared: the verdicts.
        units: what makes pairs: seeds, or problems.

    Returns:
        Some sentences.
    """
    unit = units.removesuffix("s")
    if not compared.tests:
        return ""
    if compared.seeds < statistics.MINIMUM_SEEDS:
        return (
            f"{count(compared.seeds, unit)}: too few to tell rules apart; there are verdicts from "
            f"{statistics.MINIMUM_SEEDS} {units} on."
        )
    friedman = compared.chosen and compared.tests > 1
    return (
        f"Each rule is tested against {against(compared)} by the validation loss, and against no "
        f"other: the hypothesis is that to exchange the two within a {unit} would change nothing, "
        f"the test {wilcoxon(compared.seeds)}, two-sided, over {compared.seeds} {units}. Holm's "
        f"correction for {count(compared.tests, 'test')} keeps the probability of any false "
        f"difference at {100 * compared.alpha:.0f} % at most"
        + ("; Friedman's test corrects for how the best was chosen." if friedman else ".")
        + (f" {SCOPE}" if units == "seeds" else "")
    )


def caveats(race: Race) -> list[str]:
    """Verdicts that are withheld, the race's own caveats, and those that its numbers make."""
    withheld = [f"No verdict on {rule}: {why}" for rule, why in race.withheld.items()]
    sentences = [*withheld, *race.caveats]
    seeds = findings.comparison(race).seeds
    if seeds < statistics.MINIMUM_SEEDS:
        sentences.append(
            f"{count(seeds, 'seed')}: fewer than {statistics.MINIMUM_SEEDS} give no verdict."
        )
    if len({tuple(sorted(result.seeds)) for result in race.results}) > 1:
        sentences.append(f"Not all rules have the same seeds; {count(seeds, 'seed')} are compared.")
    results = findings.ordered(race)
    for name, sweeps in findings.sweeps(race).items():
        ends = []
        for rule, sweep in sweeps.items():
            value = next(r for r in results if r.rule == rule).setting.get(name)
            if value in (np.min(sweep.setting), np.max(sweep.setting)):
                end = "lowest" if value == np.min(sweep.setting) else "highest"
                ends.append(f"{rule} ({end}, {value:.3g})")
        if ends:
            sentences.append(
                f"The chosen {name} is at an end of what was tried: {', '.join(ends)}."
            )
    return sentences
