"""The report: one page that answers to the pointer, and files for papers.

`findings` computes what both of them show, and `tables`, `charts` and `figures` draw it.
"""

from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from itertools import combinations
from pathlib import Path
from string import Template

import plotly.graph_objects as go
import plotly.offline

from fnn import plots
from fnn.race.report import charts, figures, findings, statistics, tables
from fnn.race.result import Race


def html(races: Sequence[Race], names: Sequence[str] | None = None) -> str:
    """The report as one file that loads nothing from anywhere.

    Races of the same problem are compared rule by rule; races of different problems get a
    performance profile and mean ranks over the problems.

    Args:
        races: one race or more; `findings` says what each must have.
        names: a name for each race; A, B, ... if None.

    Returns:
        HTML, some five megabytes, most of them plotly.js.
    """
    names = _names(races, names)
    problems = ", ".join(dict.fromkeys(str(race.header["problem"]) for race in races))
    parts = [f"<header><h1>fnn race: {escape(problems)}</h1>"]
    parts += [
        f'<p class="summary">{f"<b>{escape(name)}</b>: " if len(races) > 1 else ""}'
        f"{escape(tables.summary(race))}</p>"
        for name, race in zip(names, races, strict=True)
    ]
    sections = []
    for (a, before), (b, after) in combinations(zip(names, races, strict=True), 2):
        if before.header["problem"] == after.header["problem"]:
            sections.append((f"{a} and {b}", _sheet(tables.differences(before, after, (a, b)))))
    distinct = list({race.header["problem"]: race for race in races}.values())
    if len(distinct) > 1:
        sections.append(("All problems together", _together(distinct)))
    sections += [
        (f"{name}: {race.header['problem']}" if len(races) > 1 else "", _race(race))
        for name, race in zip(names, races, strict=True)
    ]
    links = "".join(
        f'<a href="#part-{i}">{escape(title)}</a>' for i, (title, _) in enumerate(sections) if title
    )
    parts.append(f"<nav>{links}</nav></header><main>")
    for i, (title, content) in enumerate(sections):
        heading = f"<h2>{escape(title)}</h2>" if title else ""
        parts.append(f'<section id="part-{i}">{heading}{content}</section>')
    parts.append("</main>")
    page = resources.files("fnn.race.report").joinpath("page.html").read_text(encoding="utf-8")
    return Template(page).substitute(
        title=escape(f"fnn race: {problems}"),
        plotly=plotly.offline.get_plotlyjs(),
        body="\n".join(parts),
    )


def export(race: Race, folder: str | Path) -> list[Path]:
    """Writes every table and figure: PNG, SVG, Markdown, LaTeX, CSV.

    Args:
        race: the race; `findings` says what it must have.
        folder: where the files go; it need not exist, and files of the same names are replaced.

    Returns:
        The files.
    """
    folder = Path(folder)
    sheets = {"table": tables.standings(race), "trials": tables.trials(race)}
    ranges = tables.ranges(race)
    if ranges.rows:
        sheets["sensitivity"] = ranges
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    forms = {".md": tables.to_markdown, ".tex": tables.to_latex, ".csv": tables.to_csv}
    for name, sheet in sheets.items():
        for suffix, form in forms.items():
            written.append(folder / f"{name}{suffix}")
            written[-1].write_text(form(sheet), encoding="utf-8")
    drawn = {
        "validation-loss": figures.losses(race, train=False),
        "training-loss": figures.losses(race, train=True),
        "time-to-target": figures.arrivals(race),
        "profile": figures.profile([race]),
    }
    ranks = findings.ranks([race])
    if ranks is not None:
        drawn["critical-difference"] = figures.ranks(ranks, "seeds")
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


def _race(race: Race) -> str:
    """The part of the page about one race."""
    marks = [_swatch(i) for i in range(len(race.results))]
    target = f"{race.header['target']:.4g}"
    parts = [
        "<h3>Standings</h3>",
        _sheet(tables.standings(race), marks=marks, title=False),
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
    ranks = findings.ranks([race])
    if ranks is not None:
        parts += ["<h3>Critical difference</h3>", _ranks(ranks, "seeds")]
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
        parts.append(_sheet(tables.ranges(race), title=False))
    parts += ["<h3>Settings</h3>", _sheet(tables.trials(race), title=False, kind="scroll tall")]
    caveats = tables.caveats(race) or ["None known."]
    parts += ["<h3>Caveats</h3><ul>", *(f"<li>{escape(text)}</li>" for text in caveats), "</ul>"]
    rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in _flat(race.header))
    parts.append(f"<h3>How to repeat it</h3><dl>{rows}</dl>")
    return "\n".join(parts)


def _together(races: Sequence[Race]) -> str:
    """The part of the page about the rules that take part in the races of all problems."""
    shared = set.intersection(*({r.rule for r in race.results} for race in races))
    if not shared:
        return "<p>No rule takes part in all of them.</p>"
    parts = [
        "<h3>Performance profile over problems</h3>",
        _figure(
            charts.profile(races),
            "The share of problems that a rule brings to the target, in the median of its seeds, "
            "within a multiple of the cost of the fastest rule. The score is AlgoPerf's: the mean "
            "height up to a multiple of 4.",
        ),
    ]
    ranks = findings.ranks(races)
    if ranks is not None:
        parts += ["<h3>Critical difference over problems</h3>", _ranks(ranks, "problems")]
    return "\n".join(parts)


def _ranks(ranks: statistics.CriticalDifference, what: str) -> str:
    """The diagram of mean ranks, with its caption."""
    difference, p = f"{ranks.difference:.2f}", f"{ranks.p:.2g}"
    return _figure(
        charts.ranks(ranks, what),
        f"1 is the lowest in every one of the {ranks.blocks} {what}. A bar at the right joins "
        f"rules whose mean ranks differ by no more than the critical difference, {difference} "
        f"(Nemenyi's test at 5 %; Friedman's test, whether any differ: p = {p}).",
    )


def _sheet(
    sheet: tables.Sheet, *, marks: Sequence[str] = (), title: bool = True, kind: str = "scroll"
) -> str:
    """A table with its heading and its caption."""
    heading = f"<h3>{escape(sheet.title)}</h3>" if title else ""
    return (
        f'{heading}<div class="{kind}" tabindex="0">{tables.to_html(sheet, marks)}</div>'
        f'<p class="caption">{escape(sheet.caption)}</p>'
    )


def _figure(figure: go.Figure, caption: str) -> str:
    """A chart as JSON, which the page's script draws, with its caption."""
    return (
        f'<figure><div class="chart"></div><script type="application/json">'
        f"{charts.to_json(figure)}</script><figcaption>{escape(caption)}</figcaption></figure>"
    )


def _swatch(i: int) -> str:
    """An image of the line that stands for the i-th rule."""
    color, dash, _ = plots.style(i)
    dashes = " ".join(f"{2 * length:g}" for length in dash)
    return (
        '<svg class="swatch" width="28" height="8" aria-hidden="true"><line x1="0" y1="4" x2="28" '
        f'y2="4" stroke="{color}" stroke-width="2.5" stroke-dasharray="{dashes}"/></svg>'
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
