"""Figures of a race for pages: they answer to the pointer, by plotly.

Colors of text, axes and grids are the page's business, which knows whether it is dark or printed.
"""

import html
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from fnn import plots
from fnn.problems import COSTS
from fnn.race.report import findings, statistics
from fnn.race.report.figures import LABELS, loss_label, share_label
from fnn.race.result import Race

FIRST = "seconds"
"""The cost that is shown until another is asked for."""

MIDDLE_HALF = "%{y:.3g}, middle half of seeds %{customdata[0]:.3g} to %{customdata[1]:.3g}"
"""What the pointer is told of a median and its band."""

INK = "#010101"
"""What the page draws in the color of its text."""


def losses(race: Race, *, train: bool) -> go.Figure:
    """A line and a band for each rule over one of the five costs, with buttons for the others."""
    results = findings.ordered(race)
    curves = {cost: findings.losses(results, cost, train=train) for cost in COSTS}
    bands = {cost: [(rule, plots.band(c)) for rule, c in of.items()] for cost, of in curves.items()}
    low, high = plots.window([b for of in bands.values() for _, b in of])
    hover = f"loss {MIDDLE_HALF}<br>after %{{x:.4g}}"
    panels = {
        cost: [
            *(_area(i, rule, b, low, high) for i, (rule, b) in enumerate(of)),
            *(_line(i, rule, b, hover) for i, (rule, b) in enumerate(of)),
        ]
        for cost, of in bands.items()
    }
    figure = _switched(panels, max(460, 110 + 21 * len(results)))
    if not train:
        _target(figure, race.header["target"], logarithmic=low > 0)
    ends = (low / 1.3, high * 1.3) if low > 0 else (low, high)
    return figure.update_layout(
        xaxis={"type": "log", **_axis(LABELS[FIRST]), "nticks": 4},
        yaxis={**_axis(loss_label(train=train)), **_scale(*ends)},
        hovermode="closest",
    )


def arrivals(race: Race) -> go.Figure:
    """A row of marks for each rule: what each seed spent until the target, by buttons a cost."""
    panels = {}
    for cost in COSTS:
        rows = list(enumerate(findings.arrivals(race, cost).items()))
        panels[cost] = [_marks(i, *row) for i, row in rows] + [_median(i, *row) for i, row in rows]
    spent = findings.arrivals(race, FIRST)
    figure = _switched(panels, 150 + 30 * len(spent))
    reached = [f"{int(np.sum(np.isfinite(of)))} of {len(of)}" for of in spent.values()]
    for y, text in [*enumerate(reached), (-0.9, "reached")]:
        figure.add_annotation(
            x=1, xref="paper", y=y, text=text, showarrow=False, xanchor="left", xshift=6
        )
    return figure.update_layout(
        xaxis={"type": "log", **_axis(LABELS[FIRST]), "nticks": 3},
        yaxis=_rows(list(spent)),
        margin_r=66,
        hovermode="closest",
    )


def profile(races: Sequence[Race]) -> go.Figure:
    """The performance profile of a cost until the target, with buttons for the costs."""
    profiles = {cost: findings.profile(races, cost) for cost in COSTS}
    panels = {
        cost: [
            _trace(
                f"{rule} {of.scores[rule]:.2f}", *plots.staircase(ratios, of.largest),
                "%{y:.0%} within %{x:.2f} times the fastest", line={**_stroke(i), "shape": "hv"},
            )
            for i, (rule, ratios) in enumerate(of.ratios.items())
        ]
        for cost, of in profiles.items()
    }  # fmt: skip
    titles = {cost: {"xaxis.title.text": f"{cost}, over those of the fastest"} for cost in COSTS}
    figure = _switched(panels, max(430, 130 + 21 * len(panels[FIRST])), titles)
    return figure.update_layout(
        xaxis={
            "type": "log", **_axis(titles[FIRST]["xaxis.title.text"]),
            "range": [0, math.log10(profiles[FIRST].largest)], "tickvals": [1, 1.5, 2, 3, 4],
        },
        yaxis={
            **_axis(share_label(races)), "range": [-0.02, 1.02], "tickformat": ".0%", "dtick": 0.25,
        },
        legend_title_text="score",
    )  # fmt: skip


def ranks(found: statistics.CriticalDifference, what: str) -> go.Figure:
    """A critical-difference diagram as rows, which a narrow screen has room for."""
    rules = list(found.mean_ranks)
    figure = _figure(130 + 26 * len(rules))
    figure.add_scatter(
        x=_digits(np.array(list(found.mean_ranks.values()))), y=list(range(len(rules))),
        mode="markers", showlegend=False, text=[_text(rule) for rule in rules],
        marker={"color": plots.COLORS[0], "size": 10},
        hovertemplate="<b>%{text}</b><br>mean rank %{x:.2f}<extra></extra>",
    )  # fmt: skip
    last, step = len(rules), 0.035 * len(rules)
    for i, group in enumerate(found.groups):
        first, end = rules.index(group[0]), rules.index(group[-1])
        figure.add_scatter(
            x=[last + step * (i + 1)] * 2, y=[first - 0.3, end + 0.3], mode="lines",
            line={"color": plots.COLORS[1], "width": 3}, showlegend=False,
            hovertemplate=f"not told apart:<br>{'<br>'.join(map(_text, group))}<extra></extra>",
        )  # fmt: skip
    figure.add_scatter(
        x=[1, min(1 + found.difference, last)], y=[-1, -1], mode="lines+text", showlegend=False,
        line={"color": INK, "width": 3}, hoverinfo="skip",
        text=["", f" CD {found.difference:.2f}"], textposition="middle right",
    )  # fmt: skip
    figure.update_layout(
        xaxis={
            **_axis(f"mean rank over {found.blocks} {what}"),
            "range": [0.8, last + step * (len(found.groups) + 1)],
            "tickvals": list(range(1, last + 1, 1 + last // 10)),
        },
        yaxis=_rows(rules) | {"range": [last - 0.5, -1.6]},
        hovermode="closest",
        margin_t=20,
    )  # fmt: skip
    return figure


def sensitivity(race: Race, name: str) -> go.Figure:
    """The validation loss of the trials against one hyperparameter of `findings.sweeps`."""
    order = [result.rule for result in findings.ordered(race)]
    bands = {rule: plots.across(s) for rule, s in findings.sweeps(race)[name].items()}
    low, high = plots.window(list(bands.values()))
    pad = (high / low) ** 0.06 if low > 0 else 0.06 * (high - low)
    bottom, top = (low / pad, high * pad) if low > 0 else (low - pad, high + pad)
    figure = _figure(max(430, 90 + 21 * len(bands)))
    for rule, b in bands.items():
        i = order.index(rule)
        color, _, marker = plots.style(i)
        edges = np.clip([b.low, b.median, b.high], bottom, top)
        figure.add_scatter(
            **_line(i, rule, b, f"%{{x:.3g}}: loss {MIDDLE_HALF}") | {"mode": "lines+markers"},
            marker={"symbol": _SYMBOLS[marker], "size": 7},
            error_y={
                "array": _digits(edges[2] - edges[1]), "arrayminus": _digits(edges[1] - edges[0]),
                "thickness": 1, "width": 0,
            },
        )  # fmt: skip
        lost = b.x[~(b.median <= top)]
        look = {"symbol": "x-thin", "size": 9, "line": {"color": color, "width": 2}}
        crosses = _trace(
            rule, lost, np.full(len(lost), top), "%{x:.3g}: off the scale", mode="markers",
            marker=look, legendgroup=rule, showlegend=False, cliponaxis=False,
        )  # fmt: skip
        figure.add_scatter(**crosses)
    return figure.update_layout(
        xaxis={"type": "log", **_axis(_text(name.replace("_", " ")))},
        yaxis={**_axis(loss_label(train=False)), **_scale(bottom, top)},
        hovermode="closest",
        margin_t=20,
    )


def to_json(figure: go.Figure) -> str:
    """A figure as it stands in a page: JSON that ends no script element."""
    plain = figure.to_dict()
    plain["layout"].pop("template", None)
    text = json.dumps(plain, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


_SYMBOLS = {
    "o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down",
    "P": "cross", "X": "x",
}  # fmt: skip


def _figure(height: int) -> go.Figure:
    return go.Figure(
        layout={
            "height": height,
            "template": None,
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "margin": {"l": 60, "r": 20, "t": 62, "b": 52},
            "legend": {"itemwidth": 40, "tracegroupgap": 0},
            "font": {"size": 13, "family": "system-ui, sans-serif"},
        }
    )


def _switched(
    panels: dict[str, list[dict]], height: int, titles: dict[str, dict] | None = None
) -> go.Figure:
    """A figure of the first cost's traces, with a button for each cost that puts in its own."""
    titles = {cost: _retitle(cost) for cost in panels} if titles is None else titles
    columns = [
        key
        for key in ("x", "y", "customdata", "name")
        if len({str([trace.get(key) for trace in traces]) for traces in panels.values()}) > 1
    ]
    buttons = []
    for cost, traces in panels.items():
        data = {key: [trace.get(key, []) for trace in traces] for key in columns}
        buttons.append({"label": cost, "method": "update", "args": [data, titles[cost]]})
    figure = _figure(height)
    for trace in panels[FIRST]:
        figure.add_scatter(**trace)
    return figure.update_layout(
        updatemenus=[
            {
                "type": "buttons", "direction": "right", "buttons": buttons, "showactive": True,
                "active": list(panels).index(FIRST), "x": 0, "xanchor": "left", "y": 1,
                "yanchor": "bottom", "pad": {"b": 14, "t": 0, "l": 0, "r": 0},
                "font": {"size": 12},
            }
        ]
    )  # fmt: skip


def _retitle(cost: str) -> dict:
    """What a button changes of the axis: counts are 10k and 2M, seconds stay as they are."""
    form = "~g" if cost == "seconds" else "~s"
    return {
        "xaxis.title.text": LABELS[cost], "xaxis.tickformat": form, "xaxis.autorange": True,
    }  # fmt: skip


def _axis(title: str) -> dict:
    return {
        "title": {"text": title, "standoff": 8},
        "automargin": True,
        "zeroline": False,
        "showgrid": True,
        "ticks": "outside",
        "nticks": 5,
        "tickformat": "~g",
    }


def _scale(bottom: float, top: float) -> dict:
    """An axis between two values, logarithmic where both are positive."""
    if bottom > 0:
        return {"type": "log", "range": np.log10([bottom, top]).tolist()}
    return {"range": [bottom, top]}


def _rows(rules: Sequence[str]) -> dict:
    return {
        "tickvals": list(range(len(rules))),
        "ticktext": [_text(rule) for rule in rules],
        "range": [len(rules) - 0.4, -0.6],
        "automargin": True,
        "zeroline": False,
        "showgrid": True,
        "fixedrange": True,
    }


def _target(figure: go.Figure, target: float, *, logarithmic: bool) -> None:
    figure.add_hline(y=target, line={"dash": "dot", "width": 1.5, "color": INK})
    figure.add_annotation(
        x=0, xref="paper", y=math.log10(target) if logarithmic else target, xanchor="left",
        yanchor="bottom", text=f"target {target:.4g}", showarrow=False, font={"size": 11},
    )  # fmt: skip


def _trace(
    name: str, x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], hover: str, **look: Any
) -> dict:
    """A named line, or what `look` makes of it, that says `hover` to the pointer."""
    return {
        "name": _text(name), "x": _digits(x), "y": _digits(y), "mode": "lines",
        "hovertemplate": f"<b>%{{fullData.name}}</b><br>{hover}<extra></extra>", **look,
    }  # fmt: skip


def _line(i: int, rule: str, b: plots.Band, hover: str) -> dict:
    """The median of the i-th rule; the pointer is told the band too."""
    edges = [list(pair) for pair in zip(_digits(b.low), _digits(b.high), strict=True)]
    return _trace(rule, b.x, b.median, hover, customdata=edges, line=_stroke(i), legendgroup=rule)


def _area(i: int, rule: str, b: plots.Band, low: float, high: float) -> dict:
    """The outline of a band, within what is shown."""
    bottom, top = (low / 10, high * 10) if low > 0 else (2 * low - high, 2 * high - low)
    below, above = np.clip([b.low, b.high], bottom, top)
    return {
        "name": _text(rule), "legendgroup": rule, "showlegend": False, "hoverinfo": "skip",
        "x": _digits(np.concatenate([b.x, b.x[::-1]])),
        "y": _digits(np.concatenate([below, above[::-1]])),
        "mode": "lines", "line": {"width": 0}, "fill": "toself",
        "fillcolor": _faint(plots.style(i).color),
    }  # fmt: skip


def _marks(i: int, rule: str, spent: Float[np.ndarray, " seeds"]) -> dict:
    """A mark in the i-th row for each seed that arrived."""
    color, _, marker = plots.style(i)
    arrived = np.sort(spent[np.isfinite(spent)])
    look = {"color": color, "symbol": _SYMBOLS[marker], "size": 8, "opacity": 0.75}
    return _trace(
        rule, arrived, i + plots.jitter(len(arrived)), "a seed after %{x:.4g}", mode="markers",
        marker=look, showlegend=False,
    )  # fmt: skip


def _median(i: int, rule: str, spent: Float[np.ndarray, " seeds"]) -> dict:
    """A bar in the i-th row, which is not drawn where most seeds missed."""
    return _trace(
        rule, np.full(2, np.median(spent)), np.array([i - 0.38, i + 0.38]), "median %{x:.4g}",
        line={"color": INK, "width": 3}, showlegend=False,
    )  # fmt: skip


def _stroke(i: int) -> dict:
    color, dash, _ = plots.style(i)
    dashes = ",".join(f"{2 * length:g}px" for length in dash) or "solid"
    return {"color": color, "dash": dashes, "width": 2}


def _faint(color: str) -> str:
    red, green, blue = (int(color[k : k + 2], 16) for k in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.13)"


def _digits(values: Float[np.ndarray, " n"]) -> list[float | None]:
    """Five significant digits are more than a screen shows; what is infinite is not drawn."""
    return [float(f"{v:.5g}") if math.isfinite(v) else None for v in np.asarray(values).tolist()]


def _text(text: str) -> str:
    """Text as plotly wants it, which reads a kind of HTML, and mathematics between dollar signs."""
    return html.escape(text, quote=False).replace("$", "&#36;")
