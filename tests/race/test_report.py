"""What a race found, in words, tables and figures: nothing is lost, and nothing breaks out."""

import csv
import io
import math
import re
import sys
import types
import xml.etree.ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from fnn import plots
from fnn.problems import COSTS
from fnn.race import ENTRANTS, report
from fnn.race.report import (
    charts,
    figures,
    findings,
    sentences,
    sheets,
    statistics,
    tables,
    wording,
)
from fnn.race.result import Race
from tests.race import synthetic

ODD = "a_b<&>%$x$|\\"
RULES = {"adam": 0.9, "newton": 2.0, "random_steps": 0.0, "sgd": 0.35, ODD: 0.85}
ORDER = ["newton", "adam", ODD, "sgd", "random_steps"]


@pytest.fixture(scope="module")
def race():
    return synthetic.race(RULES)


# Words --------------------------------------------------------------------------------------------


def test_the_first_sentence_answers(race):
    text = sentences.summary(race)
    low, middle, high = map(float, statistics.median_interval(findings.finals(race)["newton"]))
    assert text.startswith(
        "On digits, at equal seconds, newton ended with the lowest median validation loss, "
        f"{middle:#.3g} (95 % interval {low:#.3g} to {high:#.3g}, 12 seeds); it is better than "
        "adam (p = 0.002). newton reaches adam's final validation loss in "
    )
    shares = findings.beside(race)["newton"].to_its_loss["seconds"]
    low, middle, high = (f"{float(share):#.3g}" for share in shares)
    assert f"loss in {middle} ({low} to {high}) of its seconds. " in text
    assert ". All 3 others are worse than adam. newton has the lowest" in text
    seconds = np.median(race.results[1].to_target(0.05, "seconds"))
    first = f"The first at the target of 0.05 was newton, too, after {seconds:#.3g} seconds"
    assert first in text


def test_every_view_says_the_same_of_the_same_baseline(race):
    """The table, the diagram, the sentences and both captions, whatever the baseline is."""
    for baseline in (None, *ORDER):
        compared = findings.comparison(race, baseline)
        assert compared.baseline == (baseline or "adam")
        sheet = tables.standings(race, baseline)
        said = {row[0].text: row[5] for row in sheet.rows}
        told = {rule for rule, cell in said.items() if cell.text.split()[0] in ("better", "worse")}
        assert sheet.columns[5].title == f"beside {compared.baseline}"
        assert set(compared.alike) == set(ORDER) - told
        ranked = findings.ranks([race], baseline)
        assert ranked == compared
        bars = [s for s in charts.ranks(ranked, "seeds")["series"] if "line" in s["draw"]]
        assert len(bars) == (len(compared.alike) > 1)
        joined = {list(ranked.mean_ranks)[place] for bar in bars for place in bar["y"]}
        assert joined == (set(compared.alike) if bars else set())
        assert sentences.policy(compared) in sheet.caption
        apart = {row[0].text: row[1].text for row in tables.beside(race, baseline).rows}
        assert apart == {rule: cell.text for rule, cell in said.items()
                         if rule != compared.baseline}  # fmt: skip
    assert "two-sided, over 12 seeds. Holm's correction for 4 tests" in sentences.policy(compared)
    assert "Friedman" not in sentences.policy(compared)


def test_without_adam_the_best_is_the_baseline(race):
    rest = race._replace(results=[r for r in race.results if r.rule != "adam"])
    compared = findings.comparison(rest)
    assert compared.baseline == compared.best == "newton"
    assert "Friedman's test corrects for how the best was chosen" in sentences.policy(compared)
    assert "; all 3 others are worse than it. No other rule reaches newton's" in (
        sentences.summary(rest)
    )
    unsound = race._replace(withheld={"adam": "it took 3 steps."})
    assert findings.comparison(unsound).baseline == "newton"
    three = rest._replace(results=rest.results[:3])
    assert "; both others are worse than it. No" in sentences.summary(three)
    two = rest._replace(results=rest.results[:2])
    assert "Friedman" not in sentences.policy(
        findings.comparison(two)
    )  # one pair: nothing was chosen


def test_the_first_of_several_others_has_no_interval(race):
    """It was chosen by the share itself; one rule alone was not."""
    adam = race.results[0]
    slow = adam._replace(rule="slow", costs={name: 2 * cost for name, cost in adam.costs.items()})
    twin = adam._replace(rule="twin")
    text = sentences.summary(race._replace(results=[adam, twin, slow]))
    said = (
        "The first other rule to reach adam's final validation loss is twin, in 1.00 of its seconds"
    )
    assert f"{said}. " in text
    text = sentences.summary(race._replace(results=[adam, slow]))
    assert (
        "slow reaches adam's final validation loss in 2.00 (2.00 to 2.00) of its seconds. " in text
    )


def test_what_is_withheld_is_first_in_nothing(race):
    """Nor is the next one called the best; and without a test there are no words about one."""
    held = race._replace(withheld={"newton": "it took 1 step.", "adam": "it took 2 steps."})
    text = sentences.summary(held)
    assert text.count("newton") == 2  # the lowest median, of which there is no verdict
    assert f"{ODD} has the lowest training loss" in text
    sheet = tables.standings(held)
    assert [row[5].text for row in sheet.rows[:3]] == [
        "withheld",
        "withheld",
        "best with a verdict",
    ]
    assert sheet.columns[5].title == "beside the best with a verdict"
    asked = sentences.summary(held, "adam")
    assert "adam's final validation loss" not in asked
    nobody = race._replace(withheld=dict.fromkeys(RULES, "the machine was not quiet."))
    assert "Wilcoxon" not in tables.standings(nobody).caption
    assert "at the target" not in sentences.summary(nobody)


def test_a_verdict_is_withheld_with_its_reason(race):
    held = race._replace(withheld={"newton": "it took 1 step."}, caveats=[])
    assert "; there is no verdict on newton: it took 1 step. " in sentences.summary(held)
    assert tables.standings(held).rows[0][5].text == "withheld"
    assert sentences.caveats(held) == ["No verdict on newton: it took 1 step."]
    assert findings.comparison(held).tests == 3
    asked = sentences.summary(race._replace(withheld={"adam": "it took 1 step."}), "adam")
    assert "; there is no verdict on adam: it took 1 step. " in asked
    change = tables.differences(held, race).rows[0]
    assert (change[0].text, change[-1].text) == ("newton", "withheld")


def test_the_summary_claims_no_more_than_the_statistics():
    few = synthetic.race({"adam": 0.9, "sgd": 0.35}, seeds=5)
    assert "too few seeds to tell whether the other rule is worse" in sentences.summary(few)
    assert "too few seeds to tell whether it is better than sgd" in sentences.summary(few, "sgd")
    assert "5 seeds: too few to tell rules apart" in tables.standings(few).caption
    assert "the lowest and the highest of them" in tables.standings(few).caption
    assert tables.standings(few).columns[4].title == "lowest, highest"
    assert re.search(r"validation loss, \S+ \(5 seeds from \S+ to \S+\); ", sentences.summary(few))
    assert "final validation loss" not in sentences.summary(few)
    assert findings.ranks([few]).alike == ("adam", "sgd")
    one = synthetic.race({"adam": 0.9})
    assert "too few" not in sentences.summary(one)
    assert "Wilcoxon" not in tables.standings(one).caption  # of one rule there is no test
    assert tables.beside(one).rows == []
    twin = one._replace(results=[one.results[0], one.results[0]._replace(rule="twin")])
    assert "twin is not told apart from it" in sentences.summary(twin)
    assert "twin reaches adam's final validation loss in 1.00 (1.00 to 1.00) of its seconds." in (
        sentences.summary(twin)
    )
    assert tables.standings(twin).rows[1][5].text == "not told apart (p = 1.00)"
    missed = sentences.summary(synthetic.race({"adam": 0.9}, target=1e-9))
    assert "No rule reached the target of 1e-09 with most of its seeds." in missed


def test_optimization_and_generalization_are_apart(race):
    sloppy = race.results[3]._replace(rule="sloppy", test=np.full(12, 0.999))
    text = sentences.summary(race._replace(results=[*race.results[:3], sloppy]))
    assert re.search(
        r"newton has the lowest training loss at the end, \S+ \(\S+ to \S+\), and sloppy the "
        r"highest test accuracy, 0.999 \(0.999 to 0.999\)\.", text
    )  # fmt: skip


def test_the_first_at_the_target_is_so_by_what_the_budget_counts(race):
    """The quickest in seconds is not the first in steps; charts open on steps, too."""
    adam, newton, *_ = race.results
    steps = dict.fromkeys(["steps"], newton.costs["steps"] * 10)
    dear = newton._replace(costs=newton.costs | steps)
    header = race.header | {"protocol": race.header["protocol"] | {"budget": [100, "steps"]}}
    by_steps = race._replace(results=[adam, dear], header=header)
    found = {r.rule: [np.median(r.to_target(0.05, c)) for c in ("steps", "seconds")]
             for r in by_steps.results}  # fmt: skip
    took = {
        rule: "{} steps ({} seconds)".format(*map(wording.number, of)) for rule, of in found.items()
    }
    assert (
        f"The first at the target of 0.05 was adam, after {took['adam']} in the median; "
        f"newton took {took['newton']}." in sentences.summary(by_steps)
    )
    for chart in (charts.losses(by_steps, train=True), charts.arrivals(by_steps),
                  charts.profile([by_steps])):  # fmt: skip
        assert chart["views"][chart["first"]]["name"] == "steps"


def test_the_first_at_the_target_may_be_another():
    both = synthetic.race({"slow": 2.0, "quick": 1.5})
    slow, quick = both.results
    quick = quick._replace(costs={name: cost / 100 for name, cost in quick.costs.items()})
    text = sentences.summary(both._replace(results=[slow, quick]))
    assert "slow ended with the lowest" in text
    assert re.search(r"The first at the target of 0.05 was quick, after .*; slow took \d", text)


# Beside the baseline ------------------------------------------------------------------------------


def curves(rule, validation, *, cost=1.0, seeds=(0, 1, 2), test=0.5):
    """A result with these validation losses after rounds that cost as much each."""
    validation = np.tile(np.array(validation, float), (len(seeds), 1))
    spent = np.tile(cost * np.arange(1, validation.shape[1] + 1), (len(seeds), 1))
    return synthetic.race({rule: 1.0}, seeds=len(seeds)).results[0]._replace(
        seeds=list(seeds), validation=validation, train=validation / 2,
        costs=dict.fromkeys(COSTS, spent), test=np.full(len(seeds), test),
    )  # fmt: skip


def beside(*results, baseline="base", target=0.3):
    header = synthetic.race({}).header | {"target": target}
    return findings.beside(Race(header, list(results), []), baseline)


def test_the_share_of_the_baselines_cost_by_hand():
    """`base` has its lowest loss, 0.4, in its third round; `fast` is there after one of 3.5."""
    base = curves("base", [0.9, 0.5, 0.4, 0.4])
    fast = curves("fast", [0.35, 0.3, 0.3, 0.2], cost=3.5 / 2, test=0.6)
    never = curves("never", [0.9, 0.8, 0.7, 0.6], test=np.nan)
    found = beside(base, fast, never)
    assert list(found) == ["fast", "never"]
    assert set(found["fast"].to_its_loss) == set(COSTS)
    np.testing.assert_allclose(found["fast"].to_its_loss["flops"], 3.5 / 2 / 3)
    np.testing.assert_allclose(found["never"].to_its_loss["flops"], np.inf)
    np.testing.assert_allclose(found["fast"].to_target["seconds"], 0)  # base never arrives
    np.testing.assert_allclose(found["never"].to_target["seconds"], 1)  # neither does
    np.testing.assert_allclose(found["fast"].validation, -0.2)
    np.testing.assert_allclose(found["fast"].train, -0.1)
    np.testing.assert_allclose(found["fast"].test, 0.1)
    np.testing.assert_array_equal(found["never"].test, -np.inf)


def test_seeds_are_paired_by_their_names_and_misses_count():
    """The seeds of `base` stand in another order, and one of them was lost."""
    base = curves("base", [0.8, 0.4], seeds=(7, 5, 3))
    base.validation[2] = [0.8, np.inf]  # seed 3
    rule = curves("rule", [0.4, 0.3], seeds=(3, 5, 9))
    rule.validation[1] = [0.8, 0.5]  # seed 5
    low, _, high = beside(base, rule)["rule"].to_its_loss["steps"]
    assert (low, high) == (0, np.inf)
    low, _, high = beside(base, rule)["rule"].validation
    np.testing.assert_allclose([low, high], [-np.inf, 0.1])
    lost = curves("lost", [np.inf, np.inf], seeds=(3,))
    assert beside(base, lost)["lost"].to_its_loss["steps"] == (1, 1, 1)
    assert beside(base, lost)["lost"].validation == (0, 0, 0)


def test_a_baseline_must_be_in_the_race(race):
    for use in (sentences.summary, tables.standings, tables.beside, findings.comparison):
        with pytest.raises(ValueError, match="expected a baseline that is in the race, got 'lion'"):
            use(race, "lion")
    out = race._replace(caveats=["kfac was left out: it needs examples."])
    with pytest.raises(ValueError, match=r"'kfac' \(kfac was left out: .*\); try one of adam"):
        report.html([out], baseline="kfac")


def test_caveats_follow_from_the_numbers(race):
    assert sentences.caveats(race) == ["killed once, and went on"]
    adam = race.results[0]
    edge = race._replace(results=[adam._replace(chosen=4)], caveats=[])
    (said,) = sentences.caveats(edge)
    assert "chosen learning_rate is at an end of what was tried" in said
    assert "adam (highest, 0.1)" in said
    other = synthetic.race({"sgd": 0.35}, seeds=5).results[0]
    some = sentences.caveats(race._replace(results=[adam, other]))
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
    rows = list(csv.DictReader(io.StringIO(sheets.to_csv(tables.standings(race)))))
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
    assert [row["verdict"] for row in rows] == ["better", "baseline", *["worse"] * 3]
    diverged = np.where(
        np.isnan(results["random_steps"].test), -np.inf, results["random_steps"].test
    )
    np.testing.assert_array_equal(float(rows[-1]["test"]), np.median(diverged))


def every_sheet(race):
    return [
        tables.standings(race),
        tables.beside(race),
        tables.trials(race),
        tables.ranges(race),
        tables.differences(race, synthetic.race({"adam": 0.9, "kfac": 1.0}, random=1)),
    ]


def test_markdown_has_a_cell_for_each_column(race):
    for sheet in every_sheet(race):
        lines = [line for line in sheets.to_markdown(sheet).splitlines() if line.startswith("|")]
        assert len(lines) == len(sheet.rows) + 2
        for line in lines:
            bars = re.findall(r"(?<!\\)(?:\\\\)*\|", line)
            assert len(bars) == len(sheet.columns) + 1
    assert r"a_b\<\&\>%\$x\$\|\\" in sheets.to_markdown(every_sheet(race)[0])


def test_latex_is_balanced_and_escaped(race):
    for sheet in every_sheet(race):
        text = sheets.to_latex(sheet)
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
        (caption,) = re.findall(r"\\caption{(.*)}", text)
        assert len(caption) < 100
        assert text.index(r"\end{tabular}") < text.index(r"\footnotesize")
    escaped = r"a\_b\textless{}\&\textgreater{}\%\$x\$\textbar{}\textbackslash{}"
    assert escaped in sheets.to_latex(every_sheet(race)[0])
    small = sheets.Sheet(
        "", "", [sheets.Column("x", ("x",))], [[sheets.Cell("1.2e-05", (1.2e-5,))]]
    )
    assert r"$1.2 \cdot 10^{-5}$ \\" in sheets.to_latex(small)


@pytest.mark.parametrize("width", [80, 120, 160])
def test_the_terminal_shows_every_rule_and_says_what_is_left_out(race, width):
    console = Console(width=width, record=True, file=io.StringIO())
    sheet = tables.standings(race)
    console.print(sheets.to_rich(sheet, width))
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
    assert {row[-1].text for row in same.rows} == {"not told apart (p = 1.00)"}


def test_a_setting_may_be_a_text_or_nothing(race):
    """Numbers are swept, and what was chosen may be another kind of value."""
    adam = race.results[0]
    for chosen, text, value in ((None, "None", ""), ("auto", "auto", "auto"), (0.1, "0.1", "0.1")):
        settings = [{"clip": 0.1}, {"clip": 1.0}, *[{"clip": chosen}] * 3]
        sheet = tables.ranges(race._replace(results=[adam._replace(settings=settings)]))
        (row,) = csv.DictReader(io.StringIO(sheets.to_csv(sheet)))
        assert (sheet.rows[0][3].text, row["chosen"]) == (text, value)


def test_rules_at_their_defaults_are_said_to_be_so():
    untuned = synthetic.race({"adam": 0.9, "sgd": 0.3}, trials=1)
    protocol = untuned.header["protocol"] | {"trials": 0}
    sheet = tables.trials(untuned._replace(header=untuned.header | {"protocol": protocol}))
    assert sheet.caption.startswith("Nothing was tuned: every rule has its defaults.")
    assert "final of the better half" in tables.trials(untuned).caption


def test_numbers_have_three_digits():
    values = 0.97512, 97.512, 999.9, 0, -np.inf, 2.5e-9, 1234567
    texts = "0.975", "97.5", "1000", "0", "-∞", "2.50e-09", "1.23e+06"
    assert tuple(map(wording.number, values)) == texts


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
    names = "validation-loss", "training-loss", "time-to-target", "profile", "ranks"
    expected = {f"{name}{end}" for name in (*names, "sensitivity-1") for end in (".png", ".svg")}
    expected |= {
        f"{name}{end}"
        for name in ("table", "baseline", "trials", "sensitivity")
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

    EMPTY = "meta", "link", "line", "input", "wbr"

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
    for sheet in every_sheet(race)[:4]:
        for row in sheet.rows:
            for cell in row:
                assert cell.text in page.cells
    words = "".join(page.words)
    assert sentences.summary(race) in words
    assert words.index(sentences.summary(race)) < words.index("Standings")
    assert words.index(race.caveats[0]) < words.index("Standings")
    for said in (*race.caveats, "2f179cb", "0.10.2", "external", "cpu", race.header["summary"]):
        assert said in words
    assert all(load.startswith(("data:", "#")) for load in page.loads)
    assert len(page.specs) == 6
    assert ODD not in text


def test_the_loss_stands_beside_the_rule(text):
    page = Page(text)
    titles = page.cells[: page.cells.index("newton")]
    assert titles[:2] == ["rule", "validation loss"]
    assert {column.title for column in tables.standings(synthetic.race(RULES)).columns} == set(
        titles
    )


def test_verdicts_that_are_withheld_stand_beside_the_headline(race):
    held = race._replace(withheld={"sgd": "it had 6 steps", "newton": "the machine was not quiet"})
    words = "".join(Page(report.html([held])).words)
    for said in ("2 verdicts withheld, 1 caveat", "No verdict on sgd: it had 6 steps"):
        assert words.index(sentences.summary(held)) < words.index(said) < words.index("Standings")
    assert "No caveats are known." in report.html([race._replace(caveats=[])])


def test_a_page_of_all_rules_and_ones_own_is_small():
    everyone = [*ENTRANTS, "optax.contrib.muon", "mine", "yours"]
    both = [synthetic.race(dict.fromkeys(everyone, 1.0), rounds=60, random=i) for i in (0, 1)]
    assert len(report.html(both).encode()) < 2e6


@pytest.mark.parametrize("name", ["A", "B", "C"])
def test_the_title_says_what_is_compared(race, name):
    other = synthetic.race({"adam": 0.9, "sgd": 0.5}, name="iris", random=2)
    of, title = {
        "A": ([race], "fnn race: digits"),
        "B": ([race, race], "2 races of digits: A and B"),
        "C": ([race, other, race], "3 races of 2 problems: digits and iris"),
    }[name]
    assert f"<title>{title}</title>" in report.html(of)
    assert f"<h1>{title}</h1>" in report.html(of)


def test_text_cannot_break_out_of_the_page(race):
    bad = '</script><script>alert(1)</script><img src="x">'
    header = race.header | {"problem": bad, "summary": bad, "measure": bad}
    results = [race.results[0]._replace(rule=bad), race.results[1]]
    page = Page(report.html([race._replace(header=header, results=results, caveats=[bad])], [bad]))
    assert bad in page.cells
    assert all(load.startswith(("data:", "#")) for load in page.loads)
    assert not any("<" in spec for spec in page.specs)


def seen(chart, i, view):
    """A series of a chart as the script puts it together for one of its views."""
    series = chart["series"][i]
    return {**series, **(series["views"][view] if "views" in series else {})}


def test_charts_hold_the_numbers_of_the_race(race):
    first = findings.ordered(race)[0]
    chart = charts.losses(race, train=False)
    assert [view["name"] for view in chart["views"]] == list(COSTS)
    assert [view["title"] for view in chart["views"]] == list(figures.LABELS.values())
    for i, cost in enumerate(COSTS):
        line = seen(chart, 0, i)
        band = plots.band(findings.losses([first], cost, train=False)["newton"])
        for key, edge in zip(("x", "y", "low", "high"), band_of(band), strict=True):
            np.testing.assert_allclose(numbers(line[key]), edge, rtol=1e-4)
    assert list(COSTS)[chart["first"]] == "seconds"
    marks = seen(charts.arrivals(race), 0, chart["first"])
    spent = np.sort(first.to_target(0.05, "seconds"))
    np.testing.assert_allclose(marks["x"], spent, rtol=1e-4)
    np.testing.assert_allclose(marks["bar"]["x"], np.median(spent), rtol=1e-4)


def band_of(band):
    return band.x, band.median, band.low, band.high


def numbers(values):
    """What the script is given, in which None is nothing."""
    return np.array(values, dtype=float)


def test_what_all_views_share_stands_once(race):
    """Losses at the end of rounds do not depend on the cost, where seeds have the same costs."""
    same = [r._replace(costs={**r.costs, "seconds": r.costs["steps"]}) for r in race.results]
    (first, *_) = charts.losses(race._replace(results=same), train=False)["series"]
    assert {"y", "low", "high"} <= set(first)
    assert all(set(view) == {"x"} for view in first["views"])


def test_files_and_pages_show_the_same(race):
    """One panel is drawn twice: lines, crosses, ticks and limits are equal up to five digits."""
    paper, page = (
        figures.sensitivity(race, "learning_rate"),
        charts.sensitivity(race, "learning_rate"),
    )
    (axes,) = paper.axes
    assert len(axes.lines) == 2 * len(page["series"]) == 2 * len(ORDER)
    for line, above, series in zip(axes.lines[::2], axes.lines[1::2], page["series"], strict=True):
        np.testing.assert_allclose(line.get_xdata(), numbers(series["x"]), rtol=1e-4)
        np.testing.assert_allclose(line.get_ydata(), numbers(series["y"]), rtol=1e-4)
        np.testing.assert_allclose(above.get_xdata(), numbers(series["above"]), rtol=1e-4)
    np.testing.assert_allclose(axes.get_ylim(), page["y"]["range"], rtol=1e-4)
    paper, page = figures.profile([race]), charts.profile([race])
    (axes,) = paper.axes
    for i, line in enumerate(axes.lines):
        series = seen(page, i, page["first"])
        np.testing.assert_allclose(line.get_xydata().T, [series["x"], series["y"]], rtol=1e-4)
        assert line.get_color() == series["color"]
    assert axes.get_xticks().tolist() == page["x"]["ticks"]
    paper, page = figures.arrivals(race), charts.arrivals(race)
    assert {text.get_text() for text in paper.axes[0].texts} == {
        page["beside"]["heading"], *page["beside"]["texts"]
    }  # fmt: skip


def test_the_legend_of_many_long_names_is_within_the_figure():
    long = {f"{'a_long_name_' * 3}{i}": 1.0 for i in range(24)}
    figure = figures.losses(synthetic.race(long, seeds=2, rounds=2), train=False)
    figure.draw_without_rendering()
    legend = figure.axes[5].get_legend().get_window_extent()
    assert legend.x0 > figure.axes[4].get_window_extent().x1
    assert legend.x1 < figure.bbox.x1
    assert figure.bbox.y0 < legend.y0 < legend.y1 < figure.axes[5].get_window_extent().y1 + 20


def test_no_two_rules_look_alike_and_each_looks_the_same_everywhere():
    everyone = [*ENTRANTS, *(f"mine_{i}" for i in range(60))]
    full = synthetic.race(dict.fromkeys(everyone, 1.0), seeds=2, rounds=2, trials=2)
    one = charts.losses(full, train=False)["series"]
    looks = {series["name"]: (series["color"], series["dash"]) for series in one}
    assert len(set(looks.values())) == len(looks) == len(everyone)
    axes = figures.losses(full, train=False).axes[0]
    drawn = {
        line.get_label(): (line.get_color(), str(line._dash_pattern[1])) for line in axes.lines
    }
    assert len({look for rule, look in drawn.items() if rule in looks}) == len(everyone)
    few = synthetic.race({"kfac": 1.0, "adam": 2.0, "sgd": 0.5}, rounds=2)
    for chart in (charts.losses(few, train=True), charts.profile([few]), charts.arrivals(few)):
        for series in chart["series"]:
            assert (series["color"], series["dash"]) == looks[series["name"]]


@pytest.mark.parametrize("by", [0, 3])
def test_losses_have_the_same_axis_in_files_and_pages(race, by):
    """Losses by 3 lower are negative, on a linear axis; a page's axis has room for all costs."""
    results = [r._replace(train=r.train - by) for r in race.results]
    lower = race._replace(results=results)
    axes = figures.losses(lower, train=True).axes[0]
    vertical = charts.losses(lower, train=True)["y"]
    assert axes.get_yscale() == ("log" if vertical["log"] else "linear")
    np.testing.assert_allclose(vertical["range"], axes.get_ylim(), rtol=0.05)


def test_two_stores_of_one_problem_get_a_table_of_differences(race):
    words = "".join(Page(report.html([race, race], ["main", "branch"])).words)
    assert words.count("main and branch, rule by rule") == 2  # the heading, and the way to it
    assert "All problems together" not in words


def test_several_problems_get_a_profile_over_problems(race):
    other = synthetic.race({"adam": 0.9, "sgd": 0.5}, name="iris", random=2)
    words = "".join(Page(report.html([race, other])).words)
    assert "Performance profile over problems" in words
    assert "rule by rule" not in words
    profile = findings.profile([race, other], "seconds")
    assert set(profile.ratios) == set(RULES)  # of each rule, wherever it takes part
    assert list(profile.scores.values()) == sorted(profile.scores.values(), reverse=True)
    gradients = charts.profile([race, other])["series"]
    assert [series["name"] for series in gradients] == list(profile.ratios)
    times = [np.median(findings.arrivals(of, "seconds")["adam"]) for of in (race, other)]
    assert all(math.isfinite(time) for time in times)
    fastest = min(np.median(spent) for spent in findings.arrivals(race, "seconds").values())
    np.testing.assert_array_equal(profile.ratios["adam"], [times[0] / fastest, 1])


def test_a_suite_counts_a_rule_that_was_left_out_as_a_miss(race, tmp_path):
    other = synthetic.race({"adam": 0.9}, name="two-moons", random=2)
    never = synthetic.race({"adam": 0.9}, name="iris", target=0.0)
    races = [race, other, never]
    profile = findings.over_problems(races, "gradients")
    medians = {rule: np.median(s) for rule, s in findings.arrivals(race, "gradients").items()}
    fastest = min(medians.values())
    assert set(profile.ratios) == set(RULES)
    assert list(profile.scores.values()) == sorted(profile.scores.values(), reverse=True)
    for rule, ratios in profile.ratios.items():
        assert ratios[0] == (medians[rule] / fastest if math.isfinite(medians[rule]) else np.inf)
        assert (ratios[1] == 1) == (rule == "adam")
        assert ratios[2] == np.inf
    sheet = report.suite.table(races, "gradients")
    rows = {row[0].text: [cell.text for cell in row[2:]] for row in sheet.rows}
    assert rows["newton"][1:] == ["left out", "left out"]
    assert rows["adam"][1:] == ["1.00", "missed"]
    assert [column.title for column in sheet.columns][2:] == ["digits", "two-moons", "iris"]
    written = report.suite.export(races, tmp_path)
    assert {path.name for path in written} == {path.name for path in tmp_path.iterdir()}
    rows = list(csv.DictReader(io.StringIO((tmp_path / "suite-gradients.csv").read_text())))
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


# Python -------------------------------------------------------------------------------------------


def test_a_notebook_shows_the_headline_and_no_data(race):
    page = Page(race._repr_html_())
    words = "".join(page.words)
    assert sentences.summary(race) in words
    assert set(ORDER) <= set(page.cells)
    assert "killed once, and went on" in words
    assert "compile seconds" not in page.cells
    assert "<script" not in race._repr_html_()
    nothing = race._replace(results=[], caveats=["sgd was left out: <why>."])
    assert "".join(Page(nothing._repr_html_()).words) == "sgd was left out: <why>."


def test_a_console_shows_a_line(race):
    assert repr(race).startswith("<race of digits, median validation losses: newton 0.01")
    assert repr(race).endswith(" and 2 more>")
    assert repr(race._replace(results=[])) == "<race of digits, no rule is done>"
    loss = np.median(race.results[0].validation[:, -1])
    assert repr(race.results[0]) == (
        f"<adam on digits: validation loss {loss:.3g}, the median of 12 seeds, "
        "at learning_rate=0.01>"
    )


def test_a_frame_has_a_row_for_each_seed_and_round(race, monkeypatch):
    pandas = types.SimpleNamespace(DataFrame=list)
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    seeds, rounds = race.frame(), race.curves()
    assert len(seeds) == len(RULES) * 12
    assert len(rounds) == len(RULES) * 12 * 25
    newton = race.results[1]
    row = next(row for row in seeds if row["rule"] == "newton" and row["seed"] == 103)
    assert row["learning_rate"] == newton.setting["learning_rate"]
    assert row["validation"] == newton.validation[3, -1]
    assert row["test"] == newton.test[3]
    assert row["seconds_to_target"] == newton.to_target(0.05, "seconds")[3]
    assert set(COSTS) <= set(row)
    last = [row for row in rounds if row["rule"] == "newton" and row["seed"] == 103][-1]
    assert all(row[key] == last[key] for key in (*COSTS, "train", "validation"))


def test_a_frame_without_pandas_says_what_to_install(race, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    for frame in (race.frame, race.curves):
        with pytest.raises(ImportError, match=r"expected pandas.*pip install 'fnn\[pandas\]'"):
            frame()
