"""The report of a suite: the same rules on several problems, in a table and in one picture.

On each problem a rule is worth its median cost to the target. A rule that was left out of a race
counts as one that missed: it did not solve the problem.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from fnn import plots
from fnn.race.report import findings, sheets
from fnn.race.report.figures import LABELS
from fnn.race.report.sheets import Cell, Column, Sheet
from fnn.race.result import Race

COSTS = "gradients", "seconds"
"""What is compared: what budgets are counted in, which repeats, and the seconds that it took."""


def summary(races: Sequence[Race]) -> str:
    """The best score by the first of `COSTS` in a sentence.

    Args:
        races: a race for each problem.

    Returns:
        The sentence.
    """
    scores = findings.over_problems(races, COSTS[0]).scores
    (best, first), *others = scores.items()
    least = ", ".join(f"{rule} {score:.2f}" for rule, score in others[:1])
    return (
        f"Over {len(races)} problems {best} has the best score by {COSTS[0]} to the target, "
        f"{first:.2f}{f'; the next is {least}' if least else ''}."
    )


def table(races: Sequence[Race], cost: str) -> Sheet:
    """A row for each rule, a column for each problem: the cost over that of the first rule.

    Args:
        races: a race for each problem.
        cost: one of `problems.COSTS`.

    Returns:
        The table, with the best score first.
    """
    ratios, scores, largest = findings.over_problems(races, cost)
    names = [str(race.header["problem"]) for race in races]
    part = [{result.rule for result in race.results} for race in races]
    columns = [
        Column("rule", ("rule",), number=False),
        Column("score", ("score",)),
        *(Column(name, (name.replace("-", "_"),), spare=1) for name in names),
    ]

    def cell(rule: str, problem: int) -> Cell:
        ratio = float(ratios[rule][problem])
        missed = "missed" if rule in part[problem] else "left out"
        return Cell(f"{ratio:.2f}" if np.isfinite(ratio) else missed, (ratio,))

    return Sheet(
        f"{cost} to the target, over those of the first rule",
        f"Medians of {len(races[0].results[0].seeds)} fresh seeds; a median of misses is a miss. "
        "The score is the mean height of the performance profile over the problems up to a "
        f"multiple of {largest:g}.",
        columns,
        [
            [
                Cell(rule, (rule,)),
                Cell(f"{scores[rule]:.2f}", (scores[rule],)),
                *(cell(rule, problem) for problem in range(len(races))),
            ]
            for rule in ratios
        ],
    )


def figure(races: Sequence[Race]) -> Figure:
    """The performance profiles over the problems, a panel for each of `COSTS`.

    Args:
        races: a race for each problem.

    Returns:
        The figure, with the scores of all panels in its legend.
    """
    profiles = {cost: findings.over_problems(races, cost) for cost in COSTS}
    rules, looks = list(profiles[COSTS[0]].ratios), findings.looks(races)
    drawn = Figure(figsize=(11, max(4.4, 1.2 + 0.24 * len(rules))), layout="constrained")
    for axes, (cost, of) in zip(
        drawn.subplots(1, len(COSTS), sharey=True), profiles.items(), strict=True
    ):
        plots.profile(axes, {rule: of.ratios[rule] for rule in rules}, of.largest, looks)
        axes.set_xlabel(f"{LABELS[cost]}\nto the target, over those of the first rule")
    drawn.axes[0].set_ylabel(f"share of {len(races)} problems")
    labels = [
        f"{rule}  {'  '.join(f'{of.scores[rule]:.2f}' for of in profiles.values())}"
        for rule in rules
    ]
    drawn.legend(
        drawn.axes[0].lines[: len(rules)], labels, loc="outside right center", frameon=False,
        fontsize="small", handlelength=4, title=f"score by {', '.join(COSTS)}",
    )  # fmt: skip
    return drawn


def export(races: Sequence[Race], folder: str | Path) -> list[Path]:
    """Writes the table of a suite in each of `COSTS` and its picture: Markdown, CSV, PNG, SVG.

    Args:
        races: a race for each problem.
        folder: where the files go; those of the same names are replaced.

    Returns:
        The files.
    """
    folder, written = Path(folder), []
    folder.mkdir(parents=True, exist_ok=True)
    for cost in COSTS:
        sheet = table(races, cost)
        for suffix, form in {".md": sheets.to_markdown, ".csv": sheets.to_csv}.items():
            written.append(folder / f"suite-{cost}{suffix}")
            written[-1].write_text(form(sheet), encoding="utf-8")
    drawn = figure(races)
    for suffix in (".png", ".svg"):
        written.append(folder / f"suite-profile{suffix}")
        drawn.savefig(written[-1], dpi=200)
        drawn.set_layout_engine("none")  # The SVG has the layout of the PNG.
    return written
