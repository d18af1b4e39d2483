"""Figures of a race for papers, by matplotlib."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fnn import plots
from fnn.problems import COSTS
from fnn.race.report import findings, statistics
from fnn.race.result import Race

LABELS = {
    "steps": "steps",
    "examples": "examples seen",
    "gradients": "gradients (the model's work, a tenth of the rest)",
    "flops": "floating-point operations",
    "seconds": "seconds of a run alone",
}
"""What stands at an axis, by `problems.COSTS`."""

LETTERS = 8, 7, 6, 5, 4, 3
"""Sizes of letters in points; the names of all 22 entrants, in two columns, take 6."""


def losses(race: Race, *, train: bool) -> Figure:
    """The loss against each of the five costs, and a sixth panel with the legend."""
    figure = Figure(figsize=(10, 6.2), layout="constrained")
    panels = figure.subplots(2, 3, sharey=True).flat
    results, looks = findings.ordered(race), findings.looks([race])
    target = None if train else race.header["target"]
    for axes, cost in zip(panels, COSTS, strict=False):
        plots.curves(axes, findings.losses(results, cost, train=train), target, looks)
        axes.set_xlabel(LABELS[cost])
    for axes in (figure.axes[0], figure.axes[3]):
        axes.set_ylabel(loss_label(train=train))
    figure.axes[5].axis("off")
    _legend(figure.axes[5], *figure.axes[0].get_legend_handles_labels())
    figure.suptitle(_title(race))
    return figure


def _legend(axes: Axes, handles: Sequence, labels: Sequence[str]) -> None:
    """A legend in place of a panel, in the largest letters with which it is no wider."""
    for size in LETTERS:
        legend = axes.legend(
            handles, labels, loc="center", ncols=1 + (len(labels) > 12), frameon=False,
            fontsize=size, handlelength=4, columnspacing=0.6, title_fontsize="small",
            title="median, band: middle half of seeds",
        )  # fmt: skip
        legend.set_in_layout(False)  # the panels stay equally wide
        if legend.get_window_extent().width < axes.figure.bbox.width / 3.5:
            return


def arrivals(race: Race) -> Figure:
    """Seconds until the target, in a row for each rule."""
    named = findings.arrivals(race, "seconds")
    figure = Figure(figsize=(7, 1.6 + 0.32 * len(named)), layout="constrained")
    axes = plots.arrivals(figure.subplots(), named, findings.looks([race]))
    target = f"{race.header['target']:.4g}"
    axes.set_xlabel(f"{LABELS['seconds']} until a validation loss of {target}")
    figure.suptitle(_title(race), fontsize="medium")
    return figure


def profile(races: Sequence[Race]) -> Figure:
    """The performance profile of seconds to the target, its scores in the legend."""
    ratios, scores, largest = findings.profile(races, "seconds")
    figure = Figure(figsize=(8, max(4.0, 1.2 + 0.24 * len(ratios))), layout="constrained")
    axes = plots.profile(figure.subplots(), ratios, largest, findings.looks(races))
    axes.set(
        xlabel="seconds to the target, over those of the fastest rule",
        ylabel=share_label(races),
    )
    handles, rules = axes.get_legend_handles_labels()
    labels = [f"{rule}  {s:.2f}" for rule, s in zip(rules, scores.values(), strict=True)]
    figure.legend(
        handles, labels, loc="outside right center", frameon=False, fontsize="small",
        handlelength=4, title="score",
    )  # fmt: skip
    return figure


def ranks(compared: statistics.Comparison, what: str) -> Figure:
    """The diagram of mean ranks over units, named in plural; a bar joins what is not told apart."""
    numbers = compared.mean_ranks, compared.groups
    panel = plots.rank_panel(*numbers)
    height = 0.9 + 0.3 * (panel.bars + panel.half + 2)
    figure = Figure(figsize=(8, height), layout="constrained")
    axes = plots.ranks(figure.subplots(), *numbers)
    axes.set_title(
        f"mean rank of the validation loss over {compared.seeds} {what};\n"
        f"a bar joins {compared.baseline} and the rules that are not told apart from it".replace(
            "$", r"\$"
        ),
        fontsize="medium",
    )
    return figure


def sensitivity(race: Race, name: str) -> Figure:
    """The validation loss of the trials against one hyperparameter of `findings.sweeps`."""
    sweeps = findings.sweeps(race)[name]
    figure = Figure(figsize=(8, max(4.0, 1.2 + 0.24 * len(sweeps))), layout="constrained")
    axes = figure.subplots()
    plots.sensitivity(axes, sweeps, findings.looks([race]))
    axes.set(xlabel=name.replace("_", " "), ylabel="lowest validation loss of short runs")
    figure.legend(loc="outside right center", frameon=False, fontsize="small", handlelength=4)
    figure.suptitle(_title(race))
    return figure


def loss_label(*, train: bool) -> str:
    """What stands at an axis of losses."""
    return "training loss" if train else "validation loss"


def share_label(races: Sequence[Race]) -> str:
    """What stands at the axis of a profile, whose instances are seeds or problems."""
    return f"share of {'seeds' if len(races) == 1 else 'problems'}"


def _title(race: Race) -> str:
    """The problem in words, in which dollar signs are dollar signs, not mathematics."""
    return f"{race.header['problem']}: {race.header['summary']}".replace("$", r"\$")
