"""What a race found, in words, tables and figures: nothing is lost, and nothing breaks out."""

import csv
import io
import math
import re
import xml.etree.ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from fnn import plots
from fnn.problems import COSTS
from fnn.race import report
from fnn.race.report import charts, figures, findings, statistics, tables
from tests.race import synthetic

ODD = "a_b<&>%$x$|\\"
RULES = {"adam": 0.9, "newton": 2.0, "random_steps": 0.0, "sgd": 0.35, ODD: 0.85}
ORDER = ["newton", "adam", ODD, "sgd", "random_steps"]


@pytest.fixture(scope="module")
def race():
    return synthetic.race(RULES)


# Words --------------------------------------------------------------------------------------------


def test_the_summary_says_who_won_and_who_was_first(race):
    text = tables.summary(race)
    low, middle, high = map(float, statistics.median_interval(findings.finals(race)["newton"]))
    assert text.startswith(
        f"On digits, newton ended with the lowest median validation loss, {middle:#.3g} "
        f"(95 % interval {low:#.3g} to {high:#.3g}, 12 seeds); all 4 others are worse."
    )
    seconds = np.median(race.results[1].to_target(0.05, "seconds"))
    first = f"It was also the first at the target of 0.05, after {seconds:#.3g} seconds"
    assert first in text


def test_the_summary_claims_no_more_than_the_statistics():
    few = tables.summary(synthetic.race({"adam": 0.9, "sgd": 0.35}, seeds=5))
    assert "too few seeds to tell whether the other rule is worse" in few
    one = synthetic.race({"adam": 0.9})
    assert "too few" not in tables.summary(one)
    twin = one._replace(results=[one.results[0], one.results[0]._replace(rule="twin")])
    assert "twin is not told apart from it" in tables.summary(twin)
    assert tables.standings(twin).rows[1][5].text == "tied (p = 1.00)"
    missed = tables.summary(synthetic.race({"adam": 0.9}, target=1e-9))
    assert "No rule reached the target of 1e-09 with most of its seeds." in missed


def test_the_first_at_the_target_may_be_another():
    both = synthetic.race({"slow": 2.0, "quick": 1.5})
    slow, quick = both.results
    quick = quick._replace(costs={name: cost / 100 for name, cost in quick.costs.items()})
    text = tables.summary(both._replace(results=[slow, quick]))
    assert "slow ended with the lowest" in text
    assert re.search(r"The first at the target of 0.05 was quick, after .*; slow took \d", text)


def test_caveats_follow_from_the_numbers(race):
    assert tables.caveats(race) == ["killed once, and went on"]
    adam = race.results[0]
    edge = race._replace(results=[adam._replace(chosen=4)], caveats=[])
    (said,) = tables.caveats(edge)
    assert "chosen learning_rate is at an end of what was tried" in said
    assert "adam (highest, 0.1)" in said
    other = synthetic.race({"sgd": 0.35}, seeds=5).results[0]
    some = tables.caveats(race._replace(results=[adam, other]))
    assert some[1:] == [
        "5 seeds: fewer than 12 give no verdict.",
        "Not all rules have the same seeds; 5 seeds are compared.",
    ]


def test_nothing_to_report_is_said(race):
    with pytest.raises(ValueError, match="expected results of at least one rule, got none"):
        report.html([race._replace(results=[])])
    with pytest.raises(ValueError, match="expected at least one race"):
        report.html([])
    with pytest.raises(ValueError, match="expected 1 names, got 2"):
        report.html([race], ["a", "b"])
    apart = race.results[0]._replace(rule="late", seeds=list(range(12)))
    with pytest.raises(ValueError, match="expected rules with seeds in common"):
        tables.standings(race._replace(results=[race.results[0], apart]))


# Tables -------------------------------------------------------------------------------------------


def test_standings_are_the_medians_from_lowest_to_highest(race):
    rows = list(csv.DictReader(io.StringIO(tables.to_csv(tables.standings(race)))))
    assert [row["rule"] for row in rows] == ORDER
    results = {result.rule: result for result in race.results}
    for row in rows:
        result = results[row["rule"]]
        numbers = {
            "validation_loss": np.median(result.validation[:, -1]),
            "train_loss": np.median(result.train[:, -1]),
            "seconds": np.median(result.run_seconds),
            "steps": np.median(result.costs["steps"][:, -1]),
            "seconds_to_target": np.median(result.to_target(0.05, "seconds")),
            "reached": np.sum(np.isfinite(result.to_target(0.05, "seconds"))),
            "seeds": 12,
            "batch": 32,
            "compile_seconds": result.compile_seconds,
        }
        assert {name: float(row[name]) for name in numbers} == numbers
        assert float(row["validation_low"]) <= numbers["validation_loss"]
        assert float(row["validation_high"]) >= numbers["validation_loss"]
        assert row["setting"] == "learning_rate 0.01"
    assert rows[-1]["seconds_to_target"] == "inf"
    assert [row["verdict"] for row in rows] == ["lowest median"] + ["worse"] * 4
    diverged = np.where(
        np.isnan(results["random_steps"].test), -np.inf, results["random_steps"].test
    )
    np.testing.assert_array_equal(float(rows[-1]["test"]), np.median(diverged))


def sheets(race):
    return [
        tables.standings(race),
        tables.trials(race),
        tables.ranges(race),
        tables.differences(race, synthetic.race({"adam": 0.9, "kfac": 1.0}, random=1)),
    ]


def test_markdown_has_a_cell_for_each_column(race):
    for sheet in sheets(race):
        lines = [line for line in tables.to_markdown(sheet).splitlines() if line.startswith("|")]
        assert len(lines) == len(sheet.rows) + 2
        for line in lines:
            bars = re.findall(r"(?<!\\)(?:\\\\)*\|", line)
            assert len(bars) == len(sheet.columns) + 1
    assert r"a_b\<\&\>%\$x\$\|\\" in tables.to_markdown(sheets(race)[0])


def test_latex_is_balanced_and_escaped(race):
    for sheet in sheets(race):
        text = tables.to_latex(sheet)
        depth = np.cumsum([{"{": 1, "}": -1}.get(c, 0) for c in re.sub(r"\\[{}]", "", text)])
        assert depth.min() == 0
        assert depth[-1] == 0
        assert re.findall(r"\\begin{(\w+)}", text) == re.findall(r"\\end{(\w+)}", text)[::-1]
        rows = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
        cells = [line for line in rows.splitlines() if line.endswith(r"\\")]
        assert len(cells) == len(sheet.rows) + 1
        for line in cells:
            assert len(re.findall(r"(?<!\\)&", line)) == len(sheet.columns) - 1
        bare = re.sub(r"\$[^$]*\$", "", text.replace(r"\$", ""))
        assert not re.search(r"(?<!\\)[#$_^%]", bare)
    escaped = r"a\_b\textless{}\&\textgreater{}\%\$x\$\textbar{}\textbackslash{}"
    assert escaped in tables.to_latex(sheets(race)[0])
    small = tables.Sheet(
        "", "", [tables.Column("x", ("x",))], [[tables.Cell("1.2e-05", (1.2e-5,))]]
    )
    assert r"$1.2 \cdot 10^{-5}$ \\" in tables.to_latex(small)


@pytest.mark.parametrize("width", [80, 120, 160])
def test_the_terminal_shows_every_rule_and_says_what_is_left_out(race, width):
    console = Console(width=width, record=True, file=io.StringIO())
    sheet = tables.standings(race)
    console.print(tables.to_rich(sheet, width))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    for row in sheet.rows:
        assert row[0].text in text
        assert row[3].text in text
    said = "Left out for want of room" in " ".join(text.split())  # wherever its line breaks
    assert said == (width < 160)


def test_two_races_are_compared_rule_by_rule(race):
    worse = synthetic.race({"adam": 0.3, "kfac": 1.0}, random=1)
    sheet = tables.differences(race, worse, ("before", "after"))
    rows = {row[0].text: row for row in sheet.rows}
    assert list(rows) == ["adam", "newton", ODD, "sgd", "random_steps", "kfac"]
    assert rows["adam"][-1].text == "lower in before (p < 0.001)"
    assert rows["newton"][-1].text == "only in before"
    assert rows["kfac"][-1].text == "only in after"
    losses = [np.median(of.results[0].validation[:, -1]) for of in (race, worse)]
    assert [rows["adam"][1].values[0], rows["adam"][2].values[0]] == losses
    same = tables.differences(race, race)
    assert {row[-1].text for row in same.rows} == {"tied (p = 1.00)"}


def test_numbers_have_three_digits():
    values = 0.97512, 97.512, 999.9, 0, -np.inf, 2.5e-9, 1234567
    texts = "0.975", "97.5", "1000", "0", "-∞", "2.50e-09", "1.23e+06"
    assert tuple(map(tables.number, values)) == texts


# Figures for papers -------------------------------------------------------------------------------


def test_figures_keep_every_rule(race):
    losses = figures.losses(race, train=False)
    labels = [text.get_text() for text in losses.axes[5].get_legend().get_texts()]
    assert [label.replace(r"\$", "$") for label in labels] == ORDER
    for panel, cost in zip(losses.axes, COSTS, strict=False):
        assert panel.get_xlabel() == figures.LABELS[cost]
        spent = findings.ordered(race)[0].costs[cost]
        assert panel.lines[0].get_xdata()[-1] == spent[:, -1].max()
    profile = figures.profile([race])
    (legend,) = profile.legends
    assert [text.get_text().split()[0] for text in legend.get_texts()][:2] == ["newton", "adam"]


def test_export_writes_every_table_and_figure(tmp_path):
    small = synthetic.race({"adam": 0.9, ODD: 0.5}, seeds=2, rounds=4)
    written = report.export(small, tmp_path / "new")
    assert sorted(written) == sorted((tmp_path / "new").iterdir())
    names = "validation-loss", "training-loss", "time-to-target", "profile", "critical-difference"
    expected = {f"{name}{end}" for name in (*names, "sensitivity-1") for end in (".png", ".svg")}
    expected |= {
        f"{name}{end}"
        for name in ("table", "trials", "sensitivity")
        for end in (".md", ".tex", ".csv")
    }
    assert {path.name for path in written} == expected
    for path in written:
        content = path.read_bytes()
        if path.suffix == ".png":
            assert content.startswith(b"\x89PNG")
        elif path.suffix == ".svg":
            assert xml.etree.ElementTree.fromstring(content).tag.endswith("svg")
        assert len(content) > 100


# The page -----------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Elements in balance, their text, and whatever would be loaded."""

    EMPTY = "meta", "link", "line"

    def __init__(self, text):
        super().__init__()
        self.open, self.cells, self.loads, self.specs, self.words = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        if tag not in self.EMPTY:
            self.open.append((tag, dict(attributes)))
        if tag in ("td", "th"):
            self.cells.append("")
        for name, value in attributes:
            if name in ("src", "href", "srcset", "data", "poster", "action"):
                self.loads.append(value)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        inside = [tag for tag, _ in self.open]
        if "style" in inside:
            self.loads += re.findall(r"(?:@import\s*|url\()([^;)]*)", data)
        elif "script" in inside:
            if self.open[-1][1].get("type") == "application/json":
                self.specs.append(data)
        else:
            self.words.append(data)
            if inside[-1:] and inside[-1] in ("td", "th"):
                self.cells[-1] += data


@pytest.fixture(scope="module")
def text(race):
    return report.html([race])


def test_the_page_says_everything_and_loads_nothing(race, text):
    page = Page(text)
    for sheet in (tables.standings(race), tables.trials(race), tables.ranges(race)):
        for row in sheet.rows:
            for cell in row:
                assert cell.text in page.cells
    words = "".join(page.words)
    assert tables.summary(race) in words
    assert words.index(tables.summary(race)) < words.index("Standings")
    for said in (*race.caveats, "2f179cb", "0.10.2", "external", "cpu", race.header["summary"]):
        assert said in words
    assert all(load.startswith(("data:", "#")) for load in page.loads)
    assert len(page.specs) == 6
    assert text.count("Permission is hereby granted") <= 1
    assert ODD not in text.replace(html_of_plotly(), "")


def html_of_plotly():
    import plotly.offline

    return plotly.offline.get_plotlyjs()


def test_text_cannot_break_out_of_the_page(race):
    bad = '</script><script>alert(1)</script><img src="x">'
    header = race.header | {"problem": bad, "summary": bad, "measure": bad}
    results = [race.results[0]._replace(rule=bad), race.results[1]]
    page = Page(report.html([race._replace(header=header, results=results, caveats=[bad])], [bad]))
    assert bad in page.cells
    assert all(load.startswith(("data:", "#")) for load in page.loads)
    assert not any("<" in spec for spec in page.specs)


def test_charts_hold_the_numbers_of_the_race(race):
    first = findings.ordered(race)[0]
    chart = charts.losses(race, train=False)
    line = chart.data[len(ORDER)]
    band = plots.band(findings.losses([first], "seconds", train=False)["newton"])
    np.testing.assert_allclose(np.array(line.y, float), band.median, rtol=1e-4)
    buttons = chart.layout.updatemenus[0].buttons
    assert [button.label for button in buttons] == list(COSTS)
    for button, cost in zip(buttons, COSTS, strict=True):
        data, layout = button.args
        assert layout["xaxis.title.text"] == figures.LABELS[cost]
        np.testing.assert_allclose(
            data["x"][len(ORDER)][-1], first.costs[cost][:, -1].max(), rtol=1e-4
        )
    marks = charts.arrivals(race).data[0]
    np.testing.assert_allclose(marks.x, np.sort(first.to_target(0.05, "seconds")), rtol=1e-4)


def numbers(values):
    """What plotly is given, in which None is nothing."""
    return np.array(values, dtype=float)


def test_files_and_pages_show_the_same(race):
    """One panel is drawn twice: lines, crosses, ticks and limits are equal up to five digits."""
    paper, page = (
        figures.sensitivity(race, "learning_rate"),
        charts.sensitivity(race, "learning_rate"),
    )
    (axes,) = paper.axes
    assert len(axes.lines) == len(page.data) == 2 * len(ORDER)
    for line, trace in zip(axes.lines, page.data, strict=True):
        np.testing.assert_allclose(line.get_xdata(), numbers(trace.x), rtol=1e-4)
        np.testing.assert_allclose(line.get_ydata(), numbers(trace.y), rtol=1e-4)
    np.testing.assert_allclose(axes.get_ylim(), 10 ** numbers(page.layout.yaxis.range))
    paper, page = figures.profile([race]), charts.profile([race])
    (axes,) = paper.axes
    for line, trace in zip(axes.lines, page.data, strict=True):
        np.testing.assert_allclose(line.get_xydata().T, [trace.x, trace.y], rtol=1e-4)
        assert line.get_color() == trace.line.color
    assert axes.get_xticks().tolist() == list(page.layout.xaxis.tickvals)
    paper, page = figures.arrivals(race), charts.arrivals(race)
    assert {text.get_text() for text in paper.axes[0].texts} == {
        note.text for note in page.layout.annotations
    }


@pytest.mark.parametrize("by", [0, 3])
def test_losses_have_the_same_axis_in_files_and_pages(race, by):
    """Losses by 3 lower are negative, on a linear axis; a page's axis has room for all costs."""
    results = [r._replace(train=r.train - by) for r in race.results]
    lower = race._replace(results=results)
    axes = figures.losses(lower, train=True).axes[0]
    vertical = charts.losses(lower, train=True).layout.yaxis
    assert axes.get_yscale() == (vertical.type or "linear")
    low, high = 10 ** numbers(vertical.range) if by == 0 else vertical.range
    np.testing.assert_allclose([low, high], axes.get_ylim(), rtol=0.05)


def test_two_stores_of_one_problem_get_a_table_of_differences(race):
    words = "".join(Page(report.html([race, race], ["main", "branch"])).words)
    assert "main and branch, rule by rule" in words
    assert "All problems together" not in words


def test_several_problems_get_a_profile_over_problems(race):
    other = synthetic.race({"adam": 0.9, "sgd": 0.5}, name="iris", random=2)
    words = "".join(Page(report.html([race, other])).words)
    assert "Performance profile over problems" in words
    assert "rule by rule" not in words
    profile = findings.profile([race, other], "seconds")
    assert list(profile.ratios) == ["adam", "sgd"]
    times = [np.median(findings.arrivals(of, "seconds")["adam"]) for of in (race, other)]
    assert all(math.isfinite(time) for time in times)
    np.testing.assert_array_equal(profile.ratios["adam"], [1, 1])


def test_a_suite_counts_a_rule_that_was_left_out_as_a_miss(race, tmp_path):
    other = synthetic.race({"adam": 0.9}, name="two-moons", random=2)
    never = synthetic.race({"adam": 0.9}, name="iris", target=0.0)
    races = [race, other, never]
    profile = report.suite.over_problems(races, "flops")
    medians = {rule: np.median(s) for rule, s in findings.arrivals(race, "flops").items()}
    fastest = min(medians.values())
    assert set(profile.ratios) == set(RULES)
    assert list(profile.scores.values()) == sorted(profile.scores.values(), reverse=True)
    for rule, ratios in profile.ratios.items():
        assert ratios[0] == (medians[rule] / fastest if math.isfinite(medians[rule]) else np.inf)
        assert (ratios[1] == 1) == (rule == "adam")
        assert ratios[2] == np.inf
    sheet = report.suite.table(races, "flops")
    rows = {row[0].text: [cell.text for cell in row[2:]] for row in sheet.rows}
    assert rows["newton"][1:] == ["left out", "left out"]
    assert rows["adam"][1:] == ["1.00", "missed"]
    assert [column.title for column in sheet.columns][2:] == ["digits", "two-moons", "iris"]
    written = report.suite.export(races, tmp_path)
    assert {path.name for path in written} == {path.name for path in tmp_path.iterdir()}
    rows = list(csv.DictReader(io.StringIO((tmp_path / "suite-flops.csv").read_text())))
    scores = [float(row["score"]) for row in rows]
    np.testing.assert_array_equal(scores, list(profile.scores.values()))
    assert rows[0].keys() == {"rule", "score", "digits", "two_moons", "iris"}
    assert (tmp_path / "suite-profile.png").read_bytes().startswith(b"\x89PNG")


def test_races_that_went_wrong_still_get_a_page():
    lost = synthetic.race({"random_steps": 0.0}, seeds=1, rounds=1, trials=1)
    nowhere = lost.results[0]._replace(
        validation=np.full((1, 1), np.inf), train=np.full((1, 1), np.nan), settings=[{}],
        tuning=np.full((1, 1), np.inf), stopped=["non_finite"],
    )  # fmt: skip
    page = Page(report.html([lost._replace(results=[nowhere])]))
    assert "∞" in page.cells
    assert "defaults" in page.cells
    assert len(page.specs) == 4
