"""The tables of a race: standings, trials, ranges, rules beside a baseline, two races."""

from collections.abc import Callable, Sequence

import numpy as np

from fnn.race.protocol import LAPS
from fnn.race.report import findings, statistics
from fnn.race.report.sentences import policy
from fnn.race.report.sheets import Cell, Column, Sheet
from fnn.race.report.wording import (
    SCOPE,
    against,
    count,
    number,
    p_value,
    setting,
    signed,
    value_of,
    verdict,
    wilcoxon,
)
from fnn.race.result import Race, Result


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
        Column(f"beside {against(compared)}", ("verdict", "p", "effect", "mean_rank"), False),
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
        Cell(value_of(result.setting[only]) if only else setting(result.setting),
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
        f"as much as {count(spent, 'whole run')}, a third of it in short runs of all settings and "
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
                Cell(value_of(value), ("" if value is None else value,)),
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
        f"Medians over {count(compared.seeds, 'seed')} with {_intervals(compared.seeds)}, each of "
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
        f"within a seed would change nothing; the test is {wilcoxon(pairs)}, two-sided, over the "
        "seeds that both have in common, with Holm's correction for the number of rules that are "
        f"tested. {SCOPE}",
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
            f"{f'lower in {lower}' if told else 'not told apart'} ({p_value(p)})",
            (verdict if told else "not told apart", p),
        )
    return cells


def _number(value: float) -> Cell:
    """The cell of a number."""
    return Cell(number(value), (value,))
