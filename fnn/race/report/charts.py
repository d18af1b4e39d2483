"""Figures of a race for pages: they answer to the pointer, by the script `charts.js`.

`plots` decides what is drawn, for these figures and those of files alike. A chart is plain data,
numbers under names that the script knows: its axes, its views, of which buttons show one, and a
series for each rule. Colors of text, axes and grids are the page's business, which knows whether it
is dark or printed.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fnn import plots
from fnn.problems import COSTS
from fnn.race.report import findings, statistics
from fnn.race.report.figures import LABELS, loss_label, share_label
from fnn.race.result import Race

Chart = dict[str, Any]
"""What stands in a page as JSON."""

MIDDLE_HALF = "{y}, middle half of seeds {low} to {high}"
"""What the pointer is told of a median and its band; the script puts the numbers in."""


def losses(race: Race, *, train: bool) -> Chart:
    """A line and a band for each rule over one of the five costs, with buttons for the others."""
    results, looks = findings.ordered(race), findings.looks([race])
    curves = {cost: findings.losses(results, cost, train=train) for cost in COSTS}
    bands = {cost: {rule: plots.band(c) for rule, c in of.items()} for cost, of in curves.items()}
    view = plots.window([b for of in bands.values() for b in of.values()])
    panels = {cost: plots.curve_panel(of, view, looks, beyond=1) for cost, of in bands.items()}
    series = [
        {
            **_named(ribbons[0].label, ribbons[0].style), "draw": ["band", "line"],
            "say": f"loss {MIDDLE_HALF}, after {{x}}", **_views(map(_ribbon, ribbons)),
        }
        for ribbons in zip(*(panel.ribbons for panel in panels.values()), strict=True)
    ]  # fmt: skip
    target = race.header["target"]
    level = {} if train else {"level": {"y": _digits(target), "text": f"target {target:.4g}"}}
    first = findings.unit(race)
    axis = _loss_axis(panels[first], train=train)
    return {"height": 400, "x": {"log": True}, "y": axis, **_buttons(LABELS, first), **level,
            "series": series}  # fmt: skip


def arrivals(race: Race) -> Chart:
    """A row of marks for each rule: what each seed spent until the target, by buttons a cost."""
    looks = findings.looks([race])
    panels = {cost: plots.arrival_panel(findings.arrivals(race, cost), looks) for cost in COSTS}
    rows = list(zip(*(panel.rows for panel in panels.values()), strict=True))
    series = [
        {
            **_named(row[0].label, row[0].style), "draw": ["marks", "bar"],
            "say": "a seed after {x}", **_views({
                "x": _digits(cost.spent), "y": _digits(cost.height),
                "bar": {"x": _digits(cost.median), "y": _digits(cost.bar)},
            } for cost in row),
        }
        for row in rows
    ]  # fmt: skip
    first = findings.unit(race)
    panel = panels[first]
    beside = {"heading": panel.heading, "texts": [row.reached for row in panel.rows]}
    axis = _rows([row.label for row in panel.rows], panel.limits)
    return {"height": 30 * len(rows), "x": {"log": True}, "y": axis, **_buttons(LABELS, first),
            "beside": beside, "series": series}  # fmt: skip


def profile(races: Sequence[Race]) -> Chart:
    """The performance profile of a cost until the target, with buttons for the costs."""
    profiles = {cost: findings.profile(races, cost) for cost in COSTS}
    looks, first = findings.looks(races), findings.unit(races[0])
    rules = list(profiles[first].ratios)  # the order of their scores is that of the first view
    panels = {
        cost: plots.profile_panel({rule: of.ratios[rule] for rule in rules}, of.largest, looks)
        for cost, of in profiles.items()
    }
    series = [
        {
            **_named(stairs[0].label, stairs[0].style), "draw": ["stairs"],
            "say": "{y} within {x} times the fastest",
            **_views(
                {"x": _digits(one.x), "y": _digits(one.y), "score": f"{of.scores[one.label]:.2f}"}
                for one, of in zip(stairs, profiles.values(), strict=True)
            ),
        }
        for stairs in zip(*(panel.stairs for panel in panels.values()), strict=True)
    ]  # fmt: skip
    panel = panels[first]
    titles = {cost: f"{cost} to the target, over those of the fastest" for cost in COSTS}
    x = {"log": True, "range": _digits(panel.xlim), "ticks": _digits(panel.ticks)}
    y = {"title": share_label(races), "range": _digits(panel.ylim), "percent": True}
    return {"height": 380, "x": x, "y": y, "heading": "score", **_buttons(titles, first),
            "series": series}  # fmt: skip


def ranks(compared: statistics.Comparison, what: str) -> Chart:
    """The diagram of mean ranks as rows, which a narrow screen has room for."""
    panel = plots.rank_panel(compared.mean_ranks, compared.groups)
    last, step = len(panel.labels), 0.035 * len(panel.labels)
    means = [
        {**_named(rule, plots.style(0)), "x": [_digits(rank)], "y": [i], "draw": ["marks"],
         "say": "mean rank {x}"}
        for i, (rule, rank) in enumerate(zip(panel.labels, panel.ranks, strict=True))
    ]  # fmt: skip
    groups = [
        {**_named(", ".join(panel.labels[place] for place in places), plots.style(1)), "dash": "",
         "x": [_digits(last + step * (i + 1))] * len(places), "y": list(places),
         "draw": ["line", "marks"], "say": "not told apart"}
        for i, places in enumerate(panel.members)
    ]  # fmt: skip
    x = {
        "range": _digits([0.8, last + step * (len(panel.groups) + 1)]),
        "ticks": list(range(1, last + 1, 1 + last // 10)),
    }
    return {"height": 26 * (last + 1), "x": x, "y": _rows(panel.labels, (last - 0.5, -0.6)),
            **_buttons({"": f"mean rank over {compared.seeds} {what}"}),
            "series": [*means, *groups]}  # fmt: skip


def sensitivity(race: Race, name: str) -> Chart:
    """The validation loss of the trials against one hyperparameter of `findings.sweeps`."""
    panel = plots.sweep_panel(findings.sweeps(race)[name], findings.looks([race]))
    series = [
        {
            **_named(ribbon.label, ribbon.style), "draw": ["whiskers", "line", "marks", "crosses"],
            "say": f"{{x}}: loss {MIDDLE_HALF}", **_ribbon(ribbon), "above": _digits(ribbon.above),
        }
        for ribbon in panel.ribbons
    ]  # fmt: skip
    return {"height": 380, "x": {"log": True}, "y": _loss_axis(panel, train=False),
            **_buttons({"": name.replace("_", " ")}), "series": series}  # fmt: skip


def to_json(chart: Chart) -> str:
    """A chart as it stands in a page: JSON that ends no script element."""
    text = json.dumps(chart, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def dashes(look: plots.Style) -> str:
    """A style's dashes as SVG wants them, for lines two pixels wide."""
    return " ".join(f"{2 * length:g}" for length in look.dash)


def _named(label: str, look: plots.Style) -> dict:
    """What all views of a series have in common."""
    return {"name": label, "color": look.color, "dash": dashes(look), "marker": look.marker}


def _views(views: Any) -> dict:
    """The data of each view; what is the same in all of them stands once."""
    views = list(views)
    first, *others = views
    same = {key: value for key, value in first.items() if all(o[key] == value for o in others)}
    return {**same, "views": [{k: v for k, v in view.items() if k not in same} for view in views]}


def _buttons(titles: Mapping[str, str], first: str = "") -> dict:
    """A view for each name, with the title of its axis, and the one that is shown at first."""
    names = list(titles)
    return {
        "views": [{"name": name, "title": title} for name, title in titles.items()],
        "first": names.index(first),
    }


def _ribbon(ribbon: plots.Ribbon) -> dict:
    """The medians of a rule and the edges of its band."""
    return {
        "x": _digits(ribbon.band.x),
        "y": _digits(ribbon.line),
        "low": _digits(ribbon.low),
        "high": _digits(ribbon.high),
    }


def _loss_axis(panel: plots.LossPanel, *, train: bool) -> dict:
    """The vertical axis of losses, as the panel says."""
    return {
        "title": loss_label(train=train),
        "log": panel.logarithmic,
        "range": _digits(panel.limits),
    }


def _rows(labels: Sequence[str], limits: tuple[float, float]) -> dict:
    """A vertical axis on which each label has a row, the first one on top."""
    return {"rows": list(labels), "range": list(limits)}


def _digits(values: Any) -> Any:
    """Numbers of five digits, which no screen shows more of, and None, not drawn, for infinity."""
    if np.ndim(values) == 0:
        return float(f"{values:.5g}") if math.isfinite(values) else None
    return [_digits(value) for value in np.asarray(values, dtype=float).tolist()]
