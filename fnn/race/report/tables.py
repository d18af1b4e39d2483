"""Tables of a race: one kind of table, and a form for each place where it goes.

A `Sheet` has for each cell the text that people read and the numbers behind it. The terminal,
Markdown, LaTeX and HTML show the text; CSV has all digits of the numbers.
"""

import csv
import html
import io
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from fnn.race.protocol import LAPS
from fnn.race.report import findings, statistics
from fnn.race.result import Race, Result


class Column(NamedTuple):
    """A column.

    Attributes:
        title: its heading.
        fields: the names in CSV of the numbers in each of its cells.
        number: whether it is aligned to the right.
        spare: where room is short, the column with the largest is left out first; 0 always stays.
    """

    title: str
    fields: tuple[str, ...]
    number: bool = True
    spare: int = 0


class Cell(NamedTuple):
    """A cell: its text for people, and a number or name for each field of its column."""

    text: str
    values: tuple[str | float, ...]


class Sheet(NamedTuple):
    """A table."""

    title: str
    caption: str
    columns: list[Column]
    rows: list[list[Cell]]


def number(value: float) -> str:
    """A measured number with three significant digits.

    Args:
        value: infinity is a run that diverged or never arrived.

    Returns:
        Its text.

    Example:
        >>> print(*map(number, (0.5, 1234.5, 1.234e-7, 999.9, np.inf)))
        0.500 1234 1.23e-07 1000 ∞
    """
    if not math.isfinite(value):
        return "-∞" if value < 0 else "∞"
    if value == 0 or 999.5 <= abs(value) < 1e6:
        return f"{value + 0.0:.0f}"  # no minus before 0
    return f"{value:#.3g}".rstrip(".")


# What stands in them ------------------------------------------------------------------------------


def standings(race: Race, baseline: str | None = None) -> Sheet:
    """A row for each rule at its chosen setting, from the lowest median validation loss up."""
    compared = findings.comparison(race, baseline)
    results = findings.ordered(race)
    only, seeds = _only(results), compared.seeds
    columns = [
        Column("rule", ("rule",), number=False),
        Column((only or "setting").replace("_", " "), ("setting",), number=bool(only)),
        Column("batch", ("batch",), spare=7),
        Column("validation loss", ("validation_loss",)),
        Column(
            "95 % interval" if seeds >= statistics.INTERVAL_SEEDS else "lowest, highest",
            ("validation_low", "validation_high"),
            spare=5,
        ),
        Column(f"beside {_against(compared)}", ("verdict", "p", "effect", "mean_rank"), False),
        Column(f"test {race.header['measure']}", ("test",), spare=2),
        Column("seconds to target", ("seconds_to_target",)),
        Column("reached", ("reached", "seeds"), spare=1),
        Column("seconds", ("seconds",), spare=3),
        Column("steps", ("steps",), spare=4),
        Column("train loss", ("train_loss",), spare=6),
        Column("compile seconds", ("compile_seconds",), spare=8),
    ]
    rows = [_row(race, r, compared.standings[r.rule], only) for r in results]
    return Sheet(
        f"{race.header['problem']}: {race.header['summary']}",
        f"Medians of {seeds} fresh seeds at the setting chosen by validation loss, lowest first, "
        f"with {_intervals(seeds)}. A run is worth its lowest validation loss, and the test "
        "measures the parameters that had it. Seconds are those of a run alone, compiled and warm. "
        f"The target is a validation loss of {race.header['target']:.4g}; a seed that misses it "
        f"counts as infinity in the median. {policy(compared)}".rstrip(),
        columns,
        rows,
    )


def _intervals(seeds: int) -> str:
    """What stands beside medians over so many seeds."""
    few = seeds < statistics.INTERVAL_SEEDS
    return "the lowest and the highest of them" if few else "bootstrap intervals of 95 %"


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
            f"{_count(compared.seeds, unit)}: too few to tell rules apart; there are verdicts from "
            f"{statistics.MINIMUM_SEEDS} {units} on."
        )
    friedman = compared.chosen and compared.tests > 1
    return (
        f"Each rule is tested against {_against(compared)} by the validation loss, and against no "
        f"other: the hypothesis is that to exchange the two within a {unit} would change nothing, "
        f"the test {_wilcoxon(compared.seeds)}, two-sided, over {compared.seeds} {units}. Holm's "
        f"correction for {_count(compared.tests, 'test')} keeps the probability of any false "
        f"difference at {100 * compared.alpha:.0f} % at most"
        + ("; Friedman's test corrects for how the best was chosen." if friedman else ".")
        + (f" {_SCOPE}" if units == "seeds" else "")
    )


_SCOPE = "The verdicts are of the settings that were chosen, on this split of the data."
"""What a test over seeds does not reach beyond."""


def _wilcoxon(pairs: int) -> str:
    """The test's name; of more pairs its distribution is that of the limit."""
    return f"Wilcoxon's {'exact ' if pairs <= statistics.EXACT else ''}signed-rank test"


def _against(compared: statistics.Comparison) -> str:
    """The baseline in words."""
    if not compared.chosen:
        return compared.baseline
    return "the best" if compared.baseline == compared.best else f"the {statistics.BEST_SOUND}"


def _row(race: Race, result: Result, standing: statistics.Standing, only: str | None) -> list[Cell]:
    """The standing of a rule, one cell for each column."""
    low, middle, high = _interval(race, result.rule)
    train = findings.or_infinity(result.train[:, -1])
    spent = result.to_target(race.header["target"], "seconds")
    reached, seeds = int(np.sum(np.isfinite(spent))), len(spent)
    steps = float(np.median(result.costs["steps"][:, -1]))
    values = standing.verdict, standing.p, standing.effect, standing.mean_rank
    return [
        Cell(result.rule, (result.rule,)),
        Cell(_value(result.setting[only]) if only else setting(result.setting),
             (setting(result.setting),)),
        Cell(str(result.batch), (result.batch,)),
        _number(middle),
        Cell(f"[{number(low)}, {number(high)}]", (low, high)),
        Cell(verdict(standing), values),
        _number(float(np.median(findings.measures(race, result)))),
        _number(float(np.median(spent))),
        Cell(f"{reached} of {seeds}", (reached, seeds)),
        _number(float(np.median(result.run_seconds))),
        Cell(f"{steps:.0f}", (steps,)),
        _number(float(np.median(train))),
        _number(result.compile_seconds),
    ]  # fmt: skip


def _interval(race: Race, rule: str) -> tuple[float, float, float]:
    """The median validation loss of a rule, between the ends of its interval."""
    low, median, high = statistics.median_interval(findings.finals(race)[rule])
    return float(low), float(median), float(high)


def _only(results: Sequence[Result]) -> str | None:
    """The name of the hyperparameter, if all rules have the same one and no other."""
    names = {tuple(result.setting) for result in results}
    return next(iter(names))[0] if len(names) == 1 and len(next(iter(names))) == 1 else None


def verdict(standing: statistics.Standing) -> str:
    """A verdict in a word or two, with the p-value of a test."""
    if standing.verdict == "lowest median":
        return "best"
    if standing.verdict in ("better", "worse", "not told apart", "differs"):
        return f"{standing.verdict} ({_p(standing.p)})"
    return standing.verdict


def _p(p: float) -> str:
    """A p-value with as many digits as count."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def setting(values: dict[str, Any]) -> str:
    """Hyperparameters in one line.

    Args:
        values: of one trial.

    Returns:
        Names and values, "defaults" where there are none.

    Example:
        >>> setting({"learning_rate": 0.0316228, "decay": 0.9})
        'learning_rate 0.0316, decay 0.9'
    """
    return ", ".join(f"{name} {_value(value)}" for name, value in values.items()) or "defaults"


def _value(value: Any) -> str:
    """The value of a hyperparameter: three digits of a number, and whatever else as it is."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def trials(race: Race) -> Sheet:
    """A row for each setting that was tried of each rule."""
    columns = [
        Column("rule", ("rule",), number=False),
        Column("no.", ("number",)),
        Column("setting", ("setting",), number=False),
        Column("steps", ("steps", "steps_in_final")),
        Column("validation loss", ("validation_loss",)),
        Column("in the final", ("final_loss",)),
        Column("seeds that ended", ("ended", "seeds")),
        Column("chosen", ("chosen",), number=False),
    ]
    rows = []
    for result in findings.ordered(race):
        for i, (values, losses) in enumerate(zip(result.settings, result.tuning, strict=True)):
            ended = int(np.sum(np.isfinite(losses)))
            final = result.finals[i]
            went_on = not np.isnan(final).any()
            short, long = result.rungs
            steps = f"{short}, then {long}" if went_on else f"{short or ''}"
            rows.append([
                Cell(result.rule, (result.rule,)),
                Cell(str(i + 1), (i + 1,)),
                Cell(setting(values), (setting(values),)),
                Cell(steps, (short, long * went_on)),
                _number(float(np.median(findings.or_infinity(losses)))),
                _number(float(np.median(final))) if went_on else Cell("", ("",)),
                Cell(f"{ended} of {len(losses)}", (ended, len(losses))),
                Cell("chosen" if i == result.chosen else "", (str(i == result.chosen).lower(),)),
            ])  # fmt: skip
    spent = race.header["protocol"]["trials"]
    if not spent:
        return Sheet(
            "The settings",
            "Nothing was tuned: every rule has its defaults. The validation loss is that of the "
            "first seed. A seed that diverged did not end, and counts as infinity.",
            columns,
            rows,
        )
    return Sheet(
        "Every setting that was tried",
        f"Medians of the validation loss over the tuning seeds. The search of each rule may spend "
        f"as much as {_count(spent, 'whole run')}, a third of it in short runs of all settings and "
        "the rest in a final of the better half, whose runs are longer; a rule whose short runs "
        "would have fewer than ten steps has fewer settings and no final. Losses of different "
        "lengths are not to be compared. A seed that diverged did not end, and counts as infinity.",
        columns,
        rows,
    )


def ranges(race: Race) -> Sheet:
    """A row for each hyperparameter of which a rule tried several values: how much it matters."""
    columns = [
        Column("rule", ("rule",), number=False),
        Column("hyperparameter", ("hyperparameter",), number=False),
        Column("tried", ("lowest", "highest")),
        Column("chosen", ("chosen",)),
        Column("good range, decades", ("good_decades",)),
        Column("share of the search", ("good_share",)),
    ]
    chosen = {result.rule: result.setting for result in race.results}
    rows = []
    for name, sweeps in findings.sweeps(race).items():
        for rule, sweep in sweeps.items():
            good = findings.good_range(sweep, name)
            low, high = float(np.min(sweep.setting)), float(np.max(sweep.setting))
            value = chosen[rule].get(name)
            rows.append([
                Cell(rule, (rule,)),
                Cell(name, (name,)),
                Cell(f"{low:.3g} to {high:.3g}", (low, high)),
                Cell(_value(value), ("" if value is None else value,)),
                Cell(f"{good.decades:.2f}", (good.decades,)),
                Cell(f"{100 * good.share:.0f} %", (good.share,)),
            ])  # fmt: skip
    return Sheet(
        "How much depends on the setting",
        "The good range is where the validation loss is at most half above the best one tried.",
        columns,
        rows,
    )


def beside(race: Race, baseline: str | None = None) -> Sheet:
    """A row for each rule but the baseline: how far apart they are, seed by seed."""
    compared, unit = findings.comparison(race, baseline), findings.unit(race)
    other, measure = compared.baseline, race.header["measure"]
    costs = list(dict.fromkeys([unit, "seconds"]))
    columns = [
        Column("rule", ("rule",), number=False),
        Column("verdict", ("verdict", "p", "effect"), number=False, spare=1),
        _span("validation loss", "validation", 4),
        *(
            _span(f"{cost} to its loss", f"{cost}_to_its_loss", 2 * i)
            for i, cost in enumerate(costs)
        ),
        _span("seconds to the target", "seconds_to_target", 5),
        _span("training loss", "train", 6),
        _span(f"test {measure}", "test", 3),
    ]
    rows = []
    for rule, found in findings.beside(race, baseline).items():
        standing = found.standing
        rows.append([
            Cell(rule, (rule,)),
            Cell(verdict(standing), (standing.verdict, standing.p, standing.effect)),
            _spanned(found.validation, signed),
            *(_spanned(found.to_its_loss[cost], number) for cost in costs),
            _spanned(found.to_target["seconds"], number),
            _spanned(found.train, signed),
            _spanned(found.test, signed),
        ])  # fmt: skip
    return Sheet(
        f"Beside {other}",
        f"Medians over {_count(compared.seeds, 'seed')} with {_intervals(compared.seeds)}, each of "
        f"a rule and {other} with the same seed. Losses and {measure} are the rule's less those of "
        f"{other}: the lowest validation loss, the training loss at the end (optimization), and "
        f"the test's {measure} (generalization). Costs are those of the rule over those of "
        f"{other}, until the validation loss is as low as the lowest of {other} with that seed, "
        f"or at the target: below 1 the rule is cheaper; ∞ where the rule alone misses, 0 where "
        f"{other} alone does. They are read where losses are, at up to {LAPS} places. "
        "The verdict is of the validation loss; intervals are not corrected for their number.",
        columns,
        rows,
    )


def _span(title: str, field: str, spare: int) -> Column:
    """The column of medians with their intervals."""
    return Column(title, (field, f"{field}_low", f"{field}_high"), spare=spare)


def _spanned(interval: statistics.Interval, text: Callable[[float], str]) -> Cell:
    """The cell of a median with its interval."""
    low, median, high = map(float, interval)
    return Cell(f"{text(median)} [{text(low)}, {text(high)}]", (median, low, high))


def signed(value: float) -> str:
    """A difference with three significant digits and its sign.

    Args:
        value: the difference.

    Returns:
        Its text.

    Example:
        >>> print(*map(signed, (0.5, -1.234e-7, 0.0, np.inf)))
        +0.500 -1.23e-07 0 +∞
    """
    return f"{'+' if value > 0 else ''}{number(value)}"


def differences(before: Race, after: Race, names: tuple[str, str] = ("A", "B")) -> Sheet:
    """Two races of one problem beside each other: a row for each rule, those in both first."""
    a, b = names
    columns = [
        Column("rule", ("rule",), number=False),
        *(
            Column(f"{title}, {name}", (f"{field}_{i}",))
            for title, field in (
                ("validation loss", "validation_loss"),
                (f"test {before.header['measure']}", "test"),
                ("seconds", "seconds"),
                ("seconds to target", "seconds_to_target"),
            )
            for name, i in ((a, 1), (b, 2))
        ),
        Column("validation loss compared", ("verdict", "p"), number=False),
    ]
    first, second = ({r.rule: r for r in findings.ordered(race)} for race in (before, after))
    both = [rule for rule in first if rule in second]
    changes = _changes([(first[rule], second[rule]) for rule in both], before, after, names)
    for rule in dict.fromkeys([*first, *second]):
        only = f"only in {a if rule in first else b}"
        changes.setdefault(rule, Cell(only, ("only in one", "")))
    rows = []
    for rule, change in changes.items():
        sides = _side(before, first.get(rule)), _side(after, second.get(rule))
        pairs = [cell for pair in zip(*sides, strict=True) for cell in pair]
        rows.append([Cell(rule, (rule,)), *pairs, change])
    pairs = max(len(result.seeds) for result in [*before.results, *after.results])
    return Sheet(
        f"{a} and {b}, rule by rule",
        "Medians over seeds, each race's own. The hypothesis is that to exchange the two races "
        f"within a seed would change nothing; the test is {_wilcoxon(pairs)}, two-sided, over the "
        "seeds that both have in common, with Holm's correction for the number of rules that are "
        f"tested. {_SCOPE}",
        columns,
        rows,
    )


def _side(race: Race, result: Result | None) -> list[Cell]:
    """The medians of a rule in one of two races; empty cells where it does not take part."""
    if result is None:
        return [Cell("", ("",))] * 4
    values = (
        findings.or_infinity(result.validation[:, -1]),
        findings.measures(race, result),
        result.run_seconds,
        result.to_target(race.header["target"], "seconds"),
    )
    return [_number(float(np.median(value))) for value in values]


def _changes(
    pairs: Sequence[tuple[Result, Result]], before: Race, after: Race, names: tuple[str, str]
) -> dict[str, Cell]:
    """The verdict between two results of each rule that both races have, over shared seeds."""
    cells, tests = {first.rule: Cell("", ("",)) for first, _ in pairs}, {}
    for first, second in pairs:
        shared = [seed for seed in first.seeds if seed in second.seeds]
        if first.rule in {**before.withheld, **after.withheld}:
            cells[first.rule] = Cell("withheld", ("withheld", ""))
        elif len(shared) < statistics.MINIMUM_SEEDS:
            cells[first.rule] = Cell("too few seeds to tell", ("too few seeds to tell", ""))
        else:
            tests[first.rule] = statistics.signed_rank(
                *(
                    findings.or_infinity(r.validation[[r.seeds.index(seed) for seed in shared], -1])
                    for r in (first, second)
                )
            )
    for rule, p in statistics.holm({rule: test.p for rule, test in tests.items()}).items():
        lower, verdict = (
            (names[0], "first lower") if tests[rule].effect > 0 else (names[1], "second lower")
        )
        told = p <= 0.05
        cells[rule] = Cell(
            f"{f'lower in {lower}' if told else 'not told apart'} ({_p(p)})",
            (verdict if told else "not told apart", p),
        )
    return cells


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
    low, middle, high = map(number, _interval(race, best))
    seeds = _count(compared.seeds, "seed")
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
    return f"{said}; it {_SAID[standing.verdict][0]} {other} ({_p(standing.p)})"


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
        subject, several = _list(alike), len(alike) > 1
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
        f"{number(float(share.median)) if chosen else _spelled(share)} of its {cost}"
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
        f"{first} has the lowest training loss at the end, {_spelled(trained[first])}, and "
        f"{'also' if first == second else second} the {'highest' if highest else 'lowest'} test "
        f"{measure}, {_spelled(tested[second])}"
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


def _spelled(interval: statistics.Interval) -> str:
    """A median with its interval in a sentence."""
    low, median, high = (number(float(value)) for value in interval)
    return f"{median} ({low} to {high})"


def _list(names: Sequence[str]) -> str:
    """Names in a sentence, the first two of many."""
    if len(names) > 3:
        return f"{', '.join(names[:2])} and {len(names) - 2} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _count(n: int, noun: str) -> str:
    """A number and its noun, in the plural where it must be."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def caveats(race: Race) -> list[str]:
    """Verdicts that are withheld, the race's own caveats, and those that its numbers make."""
    withheld = [f"No verdict on {rule}: {why}" for rule, why in race.withheld.items()]
    sentences = [*withheld, *race.caveats]
    seeds = findings.comparison(race).seeds
    if seeds < statistics.MINIMUM_SEEDS:
        sentences.append(
            f"{_count(seeds, 'seed')}: fewer than {statistics.MINIMUM_SEEDS} give no verdict."
        )
    if len({tuple(sorted(result.seeds)) for result in race.results}) > 1:
        sentences.append(
            f"Not all rules have the same seeds; {_count(seeds, 'seed')} are compared."
        )
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


def _number(value: float) -> Cell:
    """The cell of a number."""
    return Cell(number(value), (value,))


# Where they go ------------------------------------------------------------------------------------


def to_rich(sheet: Sheet, width: int = 80) -> Table:
    """The sheet for a terminal of so many characters, without columns that it has no room for."""
    widths = [_width(sheet, i) for i in range(len(sheet.columns))]
    places = list(range(len(widths)))
    while sum(widths[i] + 2 for i in places) > width and any(
        sheet.columns[i].spare for i in places
    ):
        places.remove(max(places, key=lambda i: sheet.columns[i].spare))
    fits = sum(widths[i] + 2 for i in places) <= width
    missing = [column.title for i, column in enumerate(sheet.columns) if i not in places]
    left_out = f" Left out for want of room: {', '.join(missing)}." if missing else ""
    table = Table(  # every text is a `Text`, so that nothing in it is read as markup
        title=Text(sheet.title),
        caption=Text(sheet.caption + left_out),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    for i in places:
        justify = "right" if sheet.columns[i].number else "left"
        table.add_column(
            Text(sheet.columns[i].title),
            justify=justify,
            overflow="fold",
            no_wrap=i == 0,
            width=widths[i] if fits else None,
        )
    for row in sheet.rows:
        table.add_row(*(Text(row[i].text) for i in places))
    return table


def _width(sheet: Sheet, column: int) -> int:
    """The width of a column that breaks no cell and no word of the heading."""
    words = [len(word) for word in sheet.columns[column].title.split()]
    return max([*words, *(len(row[column].text) for row in sheet.rows)])


def to_markdown(sheet: Sheet) -> str:
    r"""The sheet as a pipe table, with its caption below.

    Args:
        sheet: the table.

    Returns:
        Markdown.

    Example:
        >>> sheet = Sheet("", "", [Column("a", ("a",), False), Column("b", ("b",))],
        ...               [[Cell("x|y", ("x|y",)), Cell("1", (1,))]])
        >>> print(to_markdown(sheet))
        | a | b |
        |---|---:|
        | x\|y | 1 |
    """
    rules = "|".join("---:" if column.number else "---" for column in sheet.columns)
    lines = [[column.title for column in sheet.columns]]
    lines += [[cell.text for cell in row] for row in sheet.rows]
    rows = [f"| {' | '.join(map(_markdown, line))} |" for line in lines]
    table = "\n".join([rows[0], f"|{rules}|", *rows[1:]])
    title = f"**{_markdown(sheet.title)}**\n\n" if sheet.title else ""
    caption = f"\n\n{_markdown(sheet.caption)}\n" if sheet.caption else ""
    return title + table + caption


def _markdown(text: str) -> str:
    """The text in one line, escaped."""
    text = re.sub(r"([\\`*\[\]<>&|$])", r"\\\1", " ".join(text.split()))
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "∞": r"$\infty$",
}  # fmt: skip


def to_latex(sheet: Sheet) -> str:
    """The sheet as a `table` for papers, its caption one line, its notes below; needs booktabs."""
    form = "".join("r" if column.number else "l" for column in sheet.columns)
    heads = [_latex(column.title) for column in sheet.columns]
    rows = [[_latex(cell.text) for cell in row] for row in sheet.rows]
    return "\n".join([
        r"\begin{table}",
        r"  \centering",
        r"  \small",
        rf"  \caption{{{_latex(sheet.title)}}}",
        rf"  \begin{{tabular}}{{{form}}}",
        r"    \toprule",
        rf"    {' & '.join(heads)} \\",
        r"    \midrule",
        *(rf"    {' & '.join(row)} \\" for row in rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        rf"  \par\smallskip\parbox{{\linewidth}}{{\footnotesize {_latex(sheet.caption)}}}",
        r"\end{table}",
        "",
    ])  # fmt: skip


def _latex(text: str) -> str:
    """The text in one line, escaped, with 1.2e-05 as a power of ten."""
    pieces = re.split(r"(?<![\w.])(\d(?:\.\d+)?)e([+-]\d+)(?!\w)", " ".join(text.split()))
    escaped = ["".join(_LATEX.get(character, character) for character in p) for p in pieces]
    powers = [
        rf"${digits} \cdot 10^{{{int(exponent)}}}$"
        for digits, exponent in zip(pieces[1::3], pieces[2::3], strict=True)
    ]
    return "".join(plain + power for plain, power in zip(escaped[::3], [*powers, ""], strict=True))


def to_csv(sheet: Sheet) -> str:
    """The sheet for programs: a line of names, and for each row a line with all digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field for column in sheet.columns for field in column.fields)
    for row in sheet.rows:
        writer.writerow(value for cell in row for value in cell.values)
    return text.getvalue()


def to_html(sheet: Sheet, marks: Sequence[str] = ()) -> str:
    """The sheet as a `table` element, with HTML marks before the first cell of each row."""
    kinds = [' class="number"' if column.number else "" for column in sheet.columns]
    head = "".join(
        f'<th scope="col"{kind}>{html.escape(column.title)}</th>'
        for kind, column in zip(kinds, sheet.columns, strict=True)
    )
    body = []
    for i, row in enumerate(sheet.rows):
        mark = marks[i] if marks else ""
        name = re.sub(r"(?<=[_.])", "<wbr>", html.escape(row[0].text))  # where it may break
        first = f'<th scope="row">{mark}{name}</th>'
        cells = "".join(
            f"<td{kind}>{html.escape(cell.text)}</td>"
            for kind, cell in zip(kinds[1:], row[1:], strict=True)
        )
        body.append(f"<tr>{first}{cells}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
