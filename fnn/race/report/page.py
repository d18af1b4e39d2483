"""The report: one page that answers to the pointer, and files for papers.

`findings` computes what both of them show, and `tables`, `charts` and `figures` draw it.
"""

from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from itertools import combinations
from pathlib import Path
from string import Template

from fnn import plots
from fnn.race.report import charts, figures, findings, sentences, sheets, statistics, tables
from fnn.race.result import Race

PAGE = "report.html"
"""The page of a race, in its folder."""

ROOM = 3
"""A notebook has room for the columns that are spared no later than this, `sheets.Column.spare`."""


def html(
    races: Sequence[Race], names: Sequence[str] | None = None, baseline: str | None = None
) -> str:
    """The report as one file that loads nothing from anywhere.

    Races of the same problem are compared rule by rule; races of different problems get a
    performance profile and mean ranks over the problems.

    Args:
        races: one race or more; `findings` says what each must have.
        names: a name for each race; A, B, ... if None.
        baseline: the rule that all others are tested against; `adam` where it takes part, or else
            the best, if None. One that is not in every race raises a ValueError.

    Returns:
        HTML, 150 kilobytes for nine rules of one race, all of it in the file.
    """
    names = _names(races, names)
    title = _title(races, names)
    parts = [f"<header><h1>{escape(title)}</h1>"]
    parts += [
        _headline(race, name if len(races) > 1 else "", baseline)
        for name, race in zip(names, races, strict=True)
    ]
    sections = []
    for (a, before), (b, after) in combinations(zip(names, races, strict=True), 2):
        if before.header["problem"] == after.header["problem"]:
            sheet = tables.differences(before, after, (a, b))
            sections.append((sheet.title, _sheet(sheet)))
    distinct = list({race.header["problem"]: race for race in races}.values())
    if len(distinct) > 1:
        sections.append(("All problems together", _together(distinct, baseline)))
    sections += [
        (f"{name}: {race.header['problem']}" if len(races) > 1 else "", _race(race, baseline))
        for name, race in zip(names, races, strict=True)
    ]
    links = "".join(
        f'<a href="#part-{i}">{escape(part)}</a>' for i, (part, _) in enumerate(sections) if part
    )
    parts.append(f"{f'<nav>{links}</nav>' if links else ''}</header><main>")
    for i, (part, content) in enumerate(sections):
        heading = f"<h2>{escape(part)}</h2>" if part else ""
        parts.append(f'<section id="part-{i}">{heading}{content}</section>')
    parts.append("</main>")
    page, script = (
        resources.files("fnn.race.report").joinpath(file).read_text(encoding="utf-8")
        for file in ("page.html", "charts.js")
    )
    return Template(page).substitute(title=escape(title), script=script, body="\n".join(parts))


def write(race: Race, folder: str | Path, baseline: str | None = None) -> Path:
    """Writes the page of a race.

    Args:
        race: the race; `findings` says what it must have.
        folder: where `report.html` goes, which is replaced.
        baseline: as for `html`.

    Returns:
        The file.
    """
    path = Path(folder) / PAGE
    path.write_text(html([race], baseline=baseline), encoding="utf-8")
    return path


def glance(race: Race) -> str:
    """The race in a notebook: its summary, its standings and its caveats.

    Args:
        race: the race; one without results has its caveats alone.

    Returns:
        HTML that brings no style of its own.
    """
    parts = []
    if race.results:
        sheet = _led_by_loss(tables.standings(race))
        room = [i for i, column in enumerate(sheet.columns) if column.spare <= ROOM]
        sheet = sheet._replace(
            columns=[sheet.columns[i] for i in room],
            rows=[[row[i] for i in room] for row in sheet.rows],
        )
        parts += [f"<p>{escape(sentences.summary(race))}</p>", sheets.to_html(sheet)]
    warnings = _warnings(race)
    if warnings:
        parts.append(f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in warnings)}</ul>")
    return "\n".join(parts) or "<p>A race without rules.</p>"


def export(race: Race, folder: str | Path, baseline: str | None = None) -> list[Path]:
    """Writes every table and figure: PNG, SVG, Markdown, LaTeX, CSV.

    Args:
        race: the race; `findings` says what it must have.
        folder: where the files go; it need not exist, and files of the same names are replaced.
        baseline: as for `html`.

    Returns:
        The files.
    """
    folder = Path(folder)
    named = {"table": tables.standings(race, baseline), "trials": tables.trials(race)}
    beside = tables.beside(race, baseline)
    if beside.rows:
        named["baseline"] = beside
    ranges = tables.ranges(race)
    if ranges.rows:
        named["sensitivity"] = ranges
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    forms = {".md": sheets.to_markdown, ".tex": sheets.to_latex, ".csv": sheets.to_csv}
    for name, sheet in named.items():
        for suffix, form in forms.items():
            written.append(folder / f"{name}{suffix}")
            written[-1].write_text(form(sheet), encoding="utf-8")
    drawn = {
        "validation-loss": figures.losses(race, train=False),
        "training-loss": figures.losses(race, train=True),
        "time-to-target": figures.arrivals(race),
        "profile": figures.profile([race]),
    }
    ranks = findings.ranks([race], baseline)
    if ranks is not None:
        drawn["ranks"] = figures.ranks(ranks, "seeds")
    for i, name in enumerate(findings.sweeps(race)):
        drawn[f"sensitivity-{i + 1}"] = figures.sensitivity(race, name)
    for name, figure in drawn.items():
        for suffix in (".png", ".svg"):
            written.append(folder / f"{name}{suffix}")
            figure.savefig(written[-1], dpi=200)
            figure.set_layout_engine("none")  # The SVG has the layout of the PNG.
    return written


def _names(races: Sequence[Race], names: Sequence[str] | None) -> list[str]:
    """A name for each race."""
    if not races:
        raise ValueError("report: expected at least one race, got none")
    names = [chr(ord("A") + i) for i in range(len(races))] if names is None else list(names)
    if len(names) != len(races):
        raise ValueError(f"report: expected {len(races)} names, got {len(names)}")
    return names


def _title(races: Sequence[Race], names: Sequence[str]) -> str:
    """What the page is about: a race, races of one problem side by side, or of several."""
    problems = list(dict.fromkeys(str(race.header["problem"]) for race in races))
    if len(races) == 1:
        return f"fnn race: {problems[0]}"
    if len(problems) == 1:
        return f"{len(races)} races of {problems[0]}: {_listed(names)}"
    return f"{len(races)} races of {len(problems)} problems: {_listed(problems)}"


def _listed(names: Sequence[str]) -> str:
    """Names in a sentence."""
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _headline(race: Race, name: str, baseline: str | None) -> str:
    """What the race found in a few sentences, and beside it what they do not say."""
    named = f"<b>{escape(name)}</b>: " if name else ""
    warnings = _warnings(race)
    if not warnings:
        beside = '<p class="quiet">No caveats are known.</p>'
    else:
        withheld, others = len(race.withheld), len(warnings) - len(race.withheld)
        counts = (withheld, "verdict", " withheld"), (others, "caveat", "")
        label = ", ".join(f"{n} {what}{'s' * (n > 1)}{end}" for n, what, end in counts if n)
        items = "".join(f"<li>{escape(text)}</li>" for text in warnings)
        beside = (
            f'<details class="caveats" open><summary>{label}</summary><ul>{items}</ul></details>'
        )
    summary = f'<p class="summary">{named}{escape(sentences.summary(race, baseline))}</p>'
    return f'<div class="headline">{summary}{beside}</div>'


def _warnings(race: Race) -> list[str]:
    """Verdicts that are withheld, then caveats; none without results, but those of the race."""
    return sentences.caveats(race) if race.results else race.caveats


def _led_by_loss(sheet: sheets.Sheet) -> sheets.Sheet:
    """The standings with the loss beside the rule: a narrow screen shows these two."""
    places = list(range(len(sheet.columns)))
    loss = next(i for i in places if "validation_loss" in sheet.columns[i].fields)
    places = [0, loss, *(i for i in places if i not in (0, loss))]
    return sheet._replace(
        columns=[sheet.columns[i] for i in places],
        rows=[[row[i] for i in places] for row in sheet.rows],
    )


def _race(race: Race, baseline: str | None) -> str:
    """The part of the page about one race."""
    looks = findings.looks([race])
    marks = [_swatch(looks[result.rule]) for result in findings.ordered(race)]
    rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in _flat(race.header))
    parts = [
        "<h3>Standings</h3>",
        _sheet(_led_by_loss(tables.standings(race, baseline)), marks=marks),
        *([_sheet(beside)] if (beside := tables.beside(race, baseline)).rows else []),
        *_curves(race),
        *_comparisons(race, baseline),
        "<h3>Settings</h3>",
        '<input class="filter" type="search" placeholder="show rows with these words" '
        'aria-label="show rows with these words">',
        _sheet(tables.trials(race), kind="scroll tall"),
        f"<h3>How to repeat it</h3><dl>{rows}</dl>",
    ]
    return "\n".join(parts)


def _curves(race: Race) -> list[str]:
    """The figures of losses and of what they cost."""
    target = f"{race.header['target']:.4g}"
    return [
        "<h3>Validation loss</h3>",
        _figure(
            charts.losses(race, train=False),
            "The lowest so far, what early stopping would keep: the median over seeds, in a band "
            "of their middle half. The buttons choose what the loss is over; a click in the legend "
            "hides a rule, a double click shows it alone; "
            "dragging enlarges, a double click in the plot shows all again.",
        ),
        "<h3>Training loss</h3>",
        _figure(charts.losses(race, train=True), "The same over the training data."),
        "<h3>Cost to the target</h3>",
        _figure(
            charts.arrivals(race),
            "Every mark is a seed, at what it had spent when its validation loss was first at "
            f"most {target}. The bar is the median, in which a miss counts as infinity.",
        ),
        "<h3>Performance profile</h3>",
        _figure(
            charts.profile([race]),
            "The share of seeds that a rule brings to the target within a multiple of the cost of "
            "the rule that was first with that seed. The score is the mean height up to a multiple "
            "of 4.",
        ),
    ]


def _comparisons(race: Race, baseline: str | None) -> list[str]:
    """Mean ranks, and how much depends on the setting, where there are several."""
    parts = []
    ranks = findings.ranks([race], baseline)
    if ranks is not None:
        parts += ["<h3>Ranks</h3>", _ranks(ranks, "seeds")]
    sweeps = findings.sweeps(race)
    if sweeps:
        parts.append("<h3>Sensitivity to the setting</h3>")
        for name in sweeps:
            parts.append(
                _figure(
                    charts.sensitivity(race, name),
                    "Median validation loss of the tuning seeds at each setting tried, in short "
                    "runs of one length, bars over their middle half. Crosses at the upper edge "
                    "diverged, or are off the scale. The setting was chosen by longer runs.",
                )
            )
        parts.append(_sheet(tables.ranges(race)))
    return parts


def _together(races: Sequence[Race], baseline: str | None) -> str:
    """The part of the page about all problems: a profile, and ranks of the rules on all of them."""
    parts = [
        "<h3>Performance profile over problems</h3>",
        _figure(
            charts.profile(races),
            "The share of problems that a rule brings to the target, in the median of its seeds, "
            "within a multiple of the cost of the fastest rule; a rule that was left out of a race "
            "did not solve its problem. The score is AlgoPerf's: the mean height up to a multiple "
            "of 4.",
        ),
    ]
    ranks = findings.ranks(races, baseline)
    if ranks is not None:
        parts += ["<h3>Ranks over problems</h3>", _ranks(ranks, "problems")]
    return "\n".join(parts)


def _ranks(compared: statistics.Comparison, what: str) -> str:
    """The diagram of mean ranks, with its caption."""
    return _figure(
        charts.ranks(compared, what),
        f"1 is the lowest in every one of the {compared.seeds} {what}. The bar at the right joins "
        f"{compared.baseline} and the rules that are not told apart from it. "
        f"{sentences.policy(compared, what)}",
    )


def _sheet(sheet: sheets.Sheet, *, marks: Sequence[str] = (), kind: str = "scroll") -> str:
    """A table with its caption."""
    return (
        f'<div class="{kind}" tabindex="0">{sheets.to_html(sheet, marks)}</div>'
        f'<p class="caption">{escape(sheet.caption)}</p>'
    )


def _figure(chart: charts.Chart, caption: str) -> str:
    """A chart as JSON, which the page's script draws, with its caption."""
    return (
        f'<figure><div class="chart"></div><script type="application/json">'
        f"{charts.to_json(chart)}</script><figcaption>{escape(caption)}</figcaption></figure>"
    )


def _swatch(look: plots.Style) -> str:
    """An image of the line that stands for a rule."""
    return (
        '<svg class="swatch" width="30" height="8" aria-hidden="true"><line x1="0" y1="4" x2="30" '
        f'y2="4" stroke="{look.color}" stroke-width="2.5" '
        f'stroke-dasharray="{charts.dashes(look)}"/></svg>'
    )


def _flat(header: Mapping, before: str = "") -> list[tuple[str, str]]:
    """Nested entries as pairs of a name and a text."""
    lines = []
    for key, value in header.items():
        name = f"{before}{key}"
        if isinstance(value, Mapping):
            lines += _flat(value, f"{name}, ")
        elif isinstance(value, list | tuple):
            lines.append((name, ", ".join(map(str, value))))
        else:
            lines.append((name, str(value)))
    return lines
