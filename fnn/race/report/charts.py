"""Figures of a race for pages: they answer to the pointer, by plotly.

`plots` decides what is drawn, for these figures and those of files alike; here is how. Colors of
text, axes and grids are the page's business, which knows whether it is dark or printed.
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

LEGEND_LINE = 21
"""A line of the legend is so many pixels high; a figure is as high as its legend, which then needs
no bar to scroll it."""

SYMBOLS = {
    "o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down",
    "P": "cross", "X": "x",
}  # fmt: skip
"""What plotly calls the markers of `plots.style`."""


def losses(race: Race, *, train: bool) -> go.Figure:
    """A line and a band for each rule over one of the five costs, with buttons for the others."""
    results = findings.ordered(race)
    curves = {cost: findings.losses(results, cost, train=train) for cost in COSTS}
    bands = {cost: {rule: plots.band(c) for rule, c in of.items()} for cost, of in curves.items()}
    view = plots.window([b for of in bands.values() for b in of.values()])
    panels = {cost: plots.curve_panel(of, view, beyond=1) for cost, of in bands.items()}
    hover = f"loss {MIDDLE_HALF}<br>after %{{x:.4g}}"
    traces = {
        cost: [*map(_area, panel.ribbons), *(_line(ribbon, hover) for ribbon in panel.ribbons)]
        for cost, panel in panels.items()
    }
    figure = _switched(traces, max(460, 110 + LEGEND_LINE * len(results)))
    panel = panels[FIRST]
    if not train:
        _target(figure, race.header["target"], logarithmic=panel.logarithmic)
    return figure.update_layout(
        xaxis={"type": "log", **_axis(LABELS[FIRST]), "nticks": 4},
        yaxis=_loss_axis(panel, train=train),
        hovermode="closest",
    )


def arrivals(race: Race) -> go.Figure:
    """A row of marks for each rule: what each seed spent until the target, by buttons a cost."""
    panels = {cost: plots.arrival_panel(findings.arrivals(race, cost)) for cost in COSTS}
    traces = {
        cost: [*map(_marks, panel.rows), *map(_median, panel.rows)]
        for cost, panel in panels.items()
    }
    panel = panels[FIRST]
    figure = _switched(traces, 150 + 30 * len(panel.rows))
    counts = [(i, row.reached) for i, row in enumerate(panel.rows)]
    for y, text in [*counts, (-0.9, panel.heading)]:
        figure.add_annotation(
            x=1, xref="paper", y=y, text=text, showarrow=False, xanchor="left", xshift=6
        )
    return figure.update_layout(
        xaxis={"type": "log", **_axis(LABELS[FIRST]), "nticks": 3},
        yaxis=_rows([row.label for row in panel.rows], panel.limits),
        margin_r=66,
        hovermode="closest",
    )


def profile(races: Sequence[Race]) -> go.Figure:
    """The performance profile of a cost until the target, with buttons for the costs."""
    profiles = {cost: findings.profile(races, cost) for cost in COSTS}
    panels = {cost: plots.profile_panel(of.ratios, of.largest) for cost, of in profiles.items()}
    hover = "%{y:.0%} within %{x:.2f} times the fastest"
    traces = {
        cost: [
            _trace(
                f"{rule} {profiles[cost].scores[rule]:.2f}", x, y, hover,
                line={**_stroke(look), "shape": "hv"},
            )
            for rule, look, x, y in panel.stairs
        ]
        for cost, panel in panels.items()
    }  # fmt: skip
    titles = {cost: {"xaxis.title.text": f"{cost}, over those of the fastest"} for cost in COSTS}
    panel = panels[FIRST]
    figure = _switched(traces, max(430, 130 + LEGEND_LINE * len(panel.stairs)), titles)
    return figure.update_layout(
        xaxis={
            **_axis(titles[FIRST]["xaxis.title.text"]), **_scale(panel.xlim, logarithmic=True),
            "tickvals": panel.ticks,
        },
        yaxis={
            **_axis(share_label(races)), **_scale(panel.ylim, logarithmic=False),
            "tickformat": ".0%", "dtick": 0.25,
        },
        legend_title_text="score",
    )  # fmt: skip


def ranks(compared: statistics.Comparison, what: str) -> go.Figure:
    """The diagram of mean ranks as rows, which a narrow screen has room for."""
    panel = plots.rank_panel(compared.mean_ranks, compared.groups)
    rules = list(map(_text, panel.labels))
    figure = _figure(130 + 26 * len(rules))
    figure.add_scatter(
        x=_digits(np.array(panel.ranks)), y=list(range(len(rules))), text=rules,
        mode="markers", showlegend=False, marker={"color": plots.COLORS[0], "size": 10},
        hovertemplate="<b>%{text}</b><br>mean rank %{x:.2f}<extra></extra>",
    )  # fmt: skip
    last, step = len(rules), 0.035 * len(rules)
    for i, places in enumerate(panel.members):
        members = "<br>".join(rules[place] for place in places)
        figure.add_scatter(
            x=[last + step * (i + 1)] * len(places), y=places, mode="lines+markers",
            line={"color": plots.COLORS[1], "width": 3}, showlegend=False, marker={"size": 8},
            hovertemplate=f"not told apart:<br>{members}<extra></extra>",
        )  # fmt: skip
    return figure.update_layout(
        xaxis={
            **_axis(f"mean rank over {compared.seeds} {what}"),
            "range": [0.8, last + step * (len(panel.groups) + 1)],
            "tickvals": list(range(1, last + 1, 1 + last // 10)),
        },
        yaxis=_rows(panel.labels, (last - 0.5, -0.6)),
        hovermode="closest",
        margin_t=20,
    )


def sensitivity(race: Race, name: str) -> go.Figure:
    """The validation loss of the trials against one hyperparameter of `findings.sweeps`."""
    rules = [result.rule for result in findings.ordered(race)]
    panel = plots.sweep_panel(findings.sweeps(race)[name], rules)
    figure = _figure(max(430, 90 + LEGEND_LINE * len(panel.ribbons)))
    for ribbon in panel.ribbons:
        figure.add_scatter(**_whiskers(ribbon, panel.limits))
        figure.add_scatter(**_crosses(ribbon, panel.limits[1]))
    return figure.update_layout(
        xaxis={"type": "log", **_axis(_text(name.replace("_", " ")))},
        yaxis=_loss_axis(panel, train=False),
        hovermode="closest",
        margin_t=20,
    )


def to_json(figure: go.Figure) -> str:
    """A figure as it stands in a page: JSON that ends no script element."""
    plain = figure.to_dict()
    plain["layout"].pop("template", None)
    text = json.dumps(plain, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _figure(height: int) -> go.Figure:
    """An empty figure, through which the page shows, in the page's letters."""
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
    traces: dict[str, list[dict]], height: int, titles: dict[str, dict] | None = None
) -> go.Figure:
    """A figure of the first cost's traces, with a button for each cost that puts in its own."""
    titles = {cost: _retitle(cost) for cost in traces} if titles is None else titles
    columns = [
        key
        for key in ("x", "y", "customdata", "name")
        if len({str([trace.get(key) for trace in own]) for own in traces.values()}) > 1
    ]
    buttons = []
    for cost, own in traces.items():
        data = {key: [trace.get(key, []) for trace in own] for key in columns}
        buttons.append({"label": cost, "method": "update", "args": [data, titles[cost]]})
    figure = _figure(height)
    for trace in traces[FIRST]:
        figure.add_scatter(**trace)
    return figure.update_layout(
        updatemenus=[
            {
                "type": "buttons", "direction": "right", "buttons": buttons, "showactive": True,
                "active": list(traces).index(FIRST), "x": 0, "xanchor": "left", "y": 1,
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
    """An axis with a title, few ticks and short numbers."""
    return {
        "title": {"text": title, "standoff": 8},
        "automargin": True,
        "zeroline": False,
        "showgrid": True,
        "ticks": "outside",
        "nticks": 5,
        "tickformat": "~g",
    }


def _scale(limits: tuple[float, float], *, logarithmic: bool) -> dict:
    """What an axis is told of its ends, on a logarithmic axis their exponents."""
    if logarithmic:
        return {"type": "log", "range": np.log10(limits).tolist()}
    return {"range": list(limits)}


def _loss_axis(panel: plots.LossPanel, *, train: bool) -> dict:
    """The vertical axis of losses, as the panel says."""
    scale = _scale(panel.limits, logarithmic=panel.logarithmic)
    return {**_axis(loss_label(train=train)), **scale}


def _rows(rules: Sequence[str], limits: tuple[float, float]) -> dict:
    """An axis on which each rule has a row."""
    return {
        "tickvals": list(range(len(rules))),
        "ticktext": [_text(rule) for rule in rules],
        "range": list(limits),
        "automargin": True,
        "zeroline": False,
        "showgrid": True,
        "fixedrange": True,
    }


def _target(figure: go.Figure, target: float, *, logarithmic: bool) -> None:
    """Adds a dotted line at the target, and its number."""
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


def _line(ribbon: plots.Ribbon, hover: str) -> dict:
    """The medians of a rule; the pointer is told the band too."""
    b, rule = ribbon.band, ribbon.label
    edges = [list(pair) for pair in zip(_digits(b.low), _digits(b.high), strict=True)]
    look = {"customdata": edges, "line": _stroke(ribbon.style), "legendgroup": rule}
    return _trace(rule, b.x, ribbon.line, hover, **look)


def _area(ribbon: plots.Ribbon) -> dict:
    """The outline of a band."""
    x = ribbon.band.x
    return {
        "name": _text(ribbon.label), "legendgroup": ribbon.label, "showlegend": False,
        "hoverinfo": "skip", "x": _digits(np.concatenate([x, x[::-1]])),
        "y": _digits(np.concatenate([ribbon.low, ribbon.high[::-1]])),
        "mode": "lines", "line": {"width": 0}, "fill": "toself",
        "fillcolor": _faint(ribbon.style.color),
    }  # fmt: skip


def _whiskers(ribbon: plots.Ribbon, limits: tuple[float, float]) -> dict:
    """The medians of a rule as marks on a line, with bars over the middle half."""
    median = np.clip(ribbon.band.median, *limits)
    return {
        **_line(ribbon, f"%{{x:.3g}}: loss {MIDDLE_HALF}"), "mode": "lines+markers",
        "marker": {"symbol": SYMBOLS[ribbon.style.marker], "size": 7},
        "error_y": {
            "array": _digits(ribbon.high - median), "arrayminus": _digits(median - ribbon.low),
            "thickness": 1, "width": 0,
        },
    }  # fmt: skip


def _crosses(ribbon: plots.Ribbon, top: float) -> dict:
    """Crosses at the upper edge for the settings of a rule whose medians lie above it."""
    stroke = {"color": ribbon.style.color, "width": 2}
    return _trace(
        ribbon.label, ribbon.above, np.full(len(ribbon.above), top), "%{x:.3g}: off the scale",
        mode="markers", marker={"symbol": "x-thin", "size": 9, "line": stroke},
        legendgroup=ribbon.label, showlegend=False, cliponaxis=False,
    )  # fmt: skip


def _marks(row: plots.Arrivals) -> dict:
    """A mark for each seed that arrived."""
    symbol = SYMBOLS[row.style.marker]
    look = {"color": row.style.color, "symbol": symbol, "size": 8, "opacity": 0.75}
    return _trace(
        row.label, row.spent, row.height, "a seed after %{x:.4g}", mode="markers", marker=look,
        showlegend=False,
    )  # fmt: skip


def _median(row: plots.Arrivals) -> dict:
    """A bar at the median, which is not drawn where most seeds missed."""
    return _trace(
        row.label, np.full(2, row.median), np.array(row.bar), "median %{x:.4g}",
        line={"color": INK, "width": 3}, showlegend=False,
    )  # fmt: skip


def _stroke(look: plots.Style) -> dict:
    """A style's color and dashes, as plotly wants them for lines two pixels wide."""
    dashes = ",".join(f"{2 * length:g}px" for length in look.dash) or "solid"
    return {"color": look.color, "dash": dashes, "width": 2}


def _faint(color: str) -> str:
    """A color through which lines, grids and other bands are seen."""
    red, green, blue = (int(color[k : k + 2], 16) for k in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.13)"


def _digits(values: Float[np.ndarray, " n"]) -> list[float | None]:
    """Numbers of five digits, which no screen shows more of, and None, not drawn, for infinity."""
    return [float(f"{v:.5g}") if math.isfinite(v) else None for v in np.asarray(values).tolist()]


def _text(text: str) -> str:
    """Text as plotly wants it, which reads a kind of HTML, and mathematics between dollar signs."""
    return html.escape(text, quote=False).replace("$", "&#36;")
