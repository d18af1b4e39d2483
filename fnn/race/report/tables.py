"""Tables of a race: one kind of table, and a form for each place where it goes.

A `Sheet` has for each cell the text that people read and the numbers behind it. The terminal,
Markdown, LaTeX and HTML show the text; CSV has all digits of the numbers.
"""

import csv
import html
import io
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

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
        return f"{value:.0f}"
    return f"{value:#.3g}".rstrip(".")


# What stands in them ------------------------------------------------------------------------------


def standings(race: Race) -> Sheet:
    """A row for each rule at its chosen setting, from the lowest median validation loss up."""
    compared = findings.comparison(race)
    results = findings.ordered(race)
    only = _only(results)
    columns = [
        Column("rule", ("rule",), number=False),
        Column((only or "setting").replace("_", " "), ("setting",), number=bool(only)),
        Column("batch", ("batch",), spare=7),
        Column("validation loss", ("validation_loss",)),
        Column("95 % interval", ("validation_low", "validation_high"), spare=5),
        Column("beside the best", ("verdict", "p", "effect", "mean_rank"), number=False),
        Column(f"test {race.header['measure']}", ("test",), spare=2),
        Column("seconds to target", ("seconds_to_target",)),
        Column("reached", ("reached", "seeds"), spare=1),
        Column("seconds", ("seconds",), spare=3),
        Column("steps", ("steps",), spare=4),
        Column("train loss", ("train_loss",), spare=6),
        Column("compile seconds", ("compile_seconds",), spare=8),
    ]
    rows = [_row(race, r, compared.standings[r.rule], only) for r in results]
    seeds = len(race.results[0].seeds)
    return Sheet(
        f"{race.header['problem']}: {race.header['summary']}",
        f"Medians of {seeds} fresh seeds at the setting chosen by validation loss, lowest first, "
        "with bootstrap intervals of 95 %. A run is worth its lowest validation loss, and the test "
        "measures the parameters that had it. Seconds are those of a run alone, compiled and warm. "
        f"The target is a validation loss of {race.header['target']:.4g}; a seed that misses it "
        "counts as infinity in the median. Rules are compared with the best by Wilcoxon's "
        f"signed-rank test over seeds, corrected for {max(len(rows) - 1, 1)} comparisons.",
        columns,
        rows,
    )


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
    if standing.verdict in ("worse", "tied", "differs"):
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
    """A row for each trial of each rule."""
    columns = [
        Column("rule", ("rule",), number=False),
        Column("trial", ("trial",)),
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
            value = chosen[rule].get(name, math.nan)
            rows.append([
                Cell(rule, (rule,)),
                Cell(name, (name,)),
                Cell(f"{low:.3g} to {high:.3g}", (low, high)),
                Cell(f"{value:.3g}", (value,)),
                Cell(f"{good.decades:.2f}", (good.decades,)),
                Cell(f"{100 * good.share:.0f} %", (good.share,)),
            ])  # fmt: skip
    return Sheet(
        "How much depends on the setting",
        "The good range is where the validation loss is at most half above the best one tried.",
        columns,
        rows,
    )


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
    rows = []
    for rule in dict.fromkeys([*both, *first, *second]):
        sides = _side(before, first.get(rule)), _side(after, second.get(rule))
        pairs = [cell for pair in zip(*sides, strict=True) for cell in pair]
        change = _change(first.get(rule), second.get(rule), names)
        rows.append([Cell(rule, (rule,)), *pairs, change])
    return Sheet(
        f"{a} and {b}, rule by rule",
        "Medians over seeds, each race's own. The verdict is Wilcoxon's signed-rank test of the "
        "seeds that both have in common, not corrected for the number of rules.",
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


def _change(before: Result | None, after: Result | None, names: tuple[str, str]) -> Cell:
    """The verdict between two results of one rule, over the seeds that both have."""
    if before is None or after is None:
        name = names[0] if after is None else names[1]
        return Cell(f"only in {name}", ("only in one", ""))
    shared = [seed for seed in before.seeds if seed in after.seeds]
    if len(shared) < statistics.MINIMUM_SEEDS:
        return Cell("too few seeds to tell", ("too few seeds to tell", ""))
    first, second = (
        findings.or_infinity(np.array([r.validation[r.seeds.index(seed), -1] for seed in shared]))
        for r in (before, after)
    )
    test = statistics.signed_rank(first, second)
    if test.p > 0.05:
        return Cell(f"tied ({_p(test.p)})", ("tied", test.p))
    lower = names[0] if test.effect > 0 else names[1]
    return Cell(f"lower in {lower} ({_p(test.p)})", ("first lower" if test.effect > 0
                else "second lower", test.p))  # fmt: skip


def summary(race: Race) -> str:
    """The race in a few sentences: who ended lowest, who is tied with it, who came first."""
    compared = findings.comparison(race)
    low, middle, high = map(number, _interval(race, compared.best))
    others = {rule: s.verdict for rule, s in compared.standings.items() if rule != compared.best}
    sentences = [
        f"On {race.header['problem']}, {compared.best} ended with the lowest median validation "
        f"loss, {middle} (95 % interval {low} to {high}, {_count(compared.seeds, 'seed')})"
    ]
    if others and compared.seeds < statistics.MINIMUM_SEEDS:
        sentences[0] += (
            "; these are too few seeds to tell whether the other "
            f"{'rule is' if len(others) == 1 else 'rules are'} worse"
        )
    elif others:
        tied = [rule for rule, verdict in others.items() if verdict != "worse"]
        worse = len(others) - len(tied)
        everyone = f"{'all ' if worse > 1 else ''}{worse} other{'s' * (worse > 1)}"
        parts = []
        if tied:
            parts.append(
                f"{_list(tied)} {'is' if len(tied) == 1 else 'are'} not told apart from it"
            )
        if worse:
            others_left = f"the other {worse}" if worse > 1 else "the other"
            subject = others_left if tied else everyone
            parts.append(f"{subject} {'is' if worse == 1 else 'are'} worse")
        sentences[0] += "; " + ", ".join(parts)
    spent = {rule: float(np.median(s)) for rule, s in findings.arrivals(race, "seconds").items()}
    first = min(spent, key=lambda rule: spent[rule])
    target = f"{race.header['target']:.4g}"
    if not math.isfinite(spent[first]):
        sentences.append(f"no rule reached the target of {target} with most of its seeds")
    elif first == compared.best:
        sentences.append(
            f"it was also the first at the target of {target}, after {number(spent[first])} "
            "seconds in the median"
        )
    else:
        missed = not math.isfinite(spent[compared.best])
        other = "missed it with most seeds" if missed else f"took {number(spent[compared.best])}"
        sentences.append(
            f"the first at the target of {target} was {first}, after {number(spent[first])} "
            f"seconds in the median; {compared.best} {other}"
        )
    return " ".join(f"{sentence[0].upper()}{sentence[1:]}." for sentence in sentences)


def _list(names: Sequence[str]) -> str:
    """Names in a sentence, the first two of many."""
    if len(names) > 3:
        return f"{', '.join(names[:2])} and {len(names) - 2} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _count(n: int, noun: str) -> str:
    """A number and its noun, in the plural where it must be."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def caveats(race: Race) -> list[str]:
    """The race's own caveats, and those that follow from its numbers."""
    sentences = list(race.caveats)
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
                f"The chosen {name} is at an end of what was tried, and the best may lie beyond: "
                f"{', '.join(ends)}."
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
    """The sheet as a `table` environment for papers, which needs the package booktabs."""
    form = "".join("r" if column.number else "l" for column in sheet.columns)
    heads = [_latex(column.title) for column in sheet.columns]
    rows = [[_latex(cell.text) for cell in row] for row in sheet.rows]
    return "\n".join([
        r"\begin{table}",
        r"  \centering",
        r"  \small",
        rf"  \caption{{{_latex(sheet.title)}. {_latex(sheet.caption)}}}",
        rf"  \begin{{tabular}}{{{form}}}",
        r"    \toprule",
        rf"    {' & '.join(heads)} \\",
        r"    \midrule",
        *(rf"    {' & '.join(row)} \\" for row in rows),
        r"    \bottomrule",
        r"  \end{tabular}",
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
        first = f'<th scope="row">{mark}{html.escape(row[0].text)}</th>'
        cells = "".join(
            f"<td{kind}>{html.escape(cell.text)}</td>"
            for kind, cell in zip(kinds[1:], row[1:], strict=True)
        )
        body.append(f"<tr>{first}{cells}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
