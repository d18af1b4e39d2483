"""Figures of a race for pages: they answer to the pointer, by plotly.

Colors of text, axes and grids are the page's business, which knows whether it is dark or printed.
"""

import html
import json
import math
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from fnn import plots
from fnn.problems import COSTS
from fnn.race.report import findings, statistics
from fnn.race.report.figures import LABELS
from fnn.race.result import Race

FIRST = "seconds"
"""The cost that is shown until another is asked for."""

INK = "#010101"
"""What the page draws in the color of its text."""


def losses(race: Race, *, train: bool) -> go.Figure:
    """A line and a band for each rule over one of the five costs, with buttons for the others."""
    results = findings.ordered(race)
    bands = {
        cost: [plots.band(c) for c in findings.losses(results, cost, train=train).values()]
        for cost in COSTS
    }
    low, high = plots.window([b for some in bands.values() for b in some])
    figure = _figure(max(460, 110 + 21 * len(results)))
    for i, result in enumerate(results):
        color = plots.style(i).color
        group = {"legendgroup": result.rule, "name": _text(result.rule)}
        area = _area(bands[FIRST][i], low, high)
        figure.add_scatter(
            **area, **group, mode="lines", fill="toself", fillcolor=_faint(color), showlegend=False,
            line={"width": 0}, hoverinfo="skip",
        )  # fmt: skip
    for i, result in enumerate(results):
        group = {"legendgroup": result.rule, "name": _text(result.rule)}
        figure.add_scatter(
            **_line(bands[FIRST][i]), **group, mode="lines", line=_stroke(i),
            hovertemplate=(
                "<b>%{fullData.name}</b><br>loss %{y:.3g}, middle half of seeds "
                "%{customdata[0]:.3g} to %{customdata[1]:.3g}<br>after %{x:.4g}<extra></extra>"
            ),
        )  # fmt: skip
    if not train:
        _target(figure, race.header["target"], logarithmic=low > 0)
    scale = _log(low, high) if low > 0 else {"range": [low, high]}
    figure.update_layout(
        xaxis={"type": "log", **_axis(LABELS[FIRST]), "nticks": 4},
        yaxis={**_axis(f"{'training' if train else 'validation'} loss"), **scale},
        hovermode="closest",
    )
    choices = {}
    for cost in COSTS:
        areas, lines = [_area(b, low, high) for b in bands[cost]], [_line(b) for b in bands[cost]]
        traces = [*areas, *lines]
        data = {key: [t[key] for t in traces] for key in ("x", "y")}
        data["customdata"] = [*([[]] * len(areas)), *(line["customdata"] for line in lines)]
        choices[cost] = [data, _retitle(cost)]
    return _buttons(figure, choices)


def arrivals(race: Race) -> go.Figure:
    """A row of marks for each rule: what each seed spent until the target, by buttons a cost."""
    spent = {cost: findings.arrivals(race, cost) for cost in COSTS}
    rules = list(spent[FIRST])
    figure = _figure(150 + 30 * len(rules))
    columns: dict[str, list] = {cost: [] for cost in COSTS}
    for i, rule in enumerate(rules):
        ordered = {cost: np.sort(of[rule][np.isfinite(of[rule])]) for cost, of in spent.items()}
        color, _, marker = plots.style(i)
        figure.add_scatter(
            x=_digits(ordered[FIRST]), y=_digits(i + plots.jitter(len(ordered[FIRST]))),
            mode="markers", name=_text(rule), showlegend=False,
            marker={"color": color, "symbol": _SYMBOLS[marker], "size": 8, "opacity": 0.75},
            hovertemplate="<b>%{fullData.name}</b><br>a seed after %{x:.4g}<extra></extra>",
        )  # fmt: skip
        for cost in COSTS:
            columns[cost].append(_digits(ordered[cost]))
    for i, rule in enumerate(rules):
        middle = {cost: float(np.median(of[rule])) for cost, of in spent.items()}
        shown = {c: [m] * 2 if math.isfinite(m) else [None] * 2 for c, m in middle.items()}
        figure.add_scatter(
            x=shown[FIRST], y=[i - 0.38, i + 0.38], mode="lines", showlegend=False,
            name=_text(rule), line={"color": INK, "width": 3},
            hovertemplate="<b>%{fullData.name}</b><br>median %{x:.4g}<extra></extra>",
        )  # fmt: skip
        for cost in COSTS:
            columns[cost].append(shown[cost])
        of = spent[FIRST][rule]
        reached = f"{int(np.sum(np.isfinite(of)))} of {len(of)}"
        figure.add_annotation(
            x=1, xref="paper", y=i, text=reached, showarrow=False, xanchor="left", xshift=6
        )
    figure.add_annotation(
        x=1, xref="paper", y=-0.9, text="reached", showarrow=False, xanchor="left", xshift=6
    )
    figure.update_layout(
        xaxis={"type": "log", **_axis(LABELS[FIRST]), "nticks": 3},
        yaxis=_rows(rules),
        margin_r=66,
        hovermode="closest",
    )
    choices = {cost: [{"x": columns[cost]}, _retitle(cost)] for cost in COSTS}
    return _buttons(figure, choices)


def profile(races: Sequence[Race]) -> go.Figure:
    """The performance profile of a cost until the target, with buttons for the costs."""
    found = {cost: findings.profile(races, cost) for cost in COSTS}
    figure = _figure(max(430, 130 + 21 * len(found[FIRST].ratios)))
    steps = {
        cost: {rule: plots.staircase(r, of.largest) for rule, r in of.ratios.items()}
        for cost, of in found.items()
    }
    names = {
        cost: {rule: f"{_text(rule)} {of.scores[rule]:.2f}" for rule in of.ratios}
        for cost, of in found.items()
    }
    for i, rule in enumerate(steps[FIRST]):
        x, y = steps[FIRST][rule]
        figure.add_scatter(
            x=_digits(x), y=_digits(y), name=names[FIRST][rule], mode="lines",
            line={**_stroke(i), "shape": "hv"},
            hovertemplate=(
                "<b>%{fullData.name}</b><br>%{y:.0%} within %{x:.2f} times the fastest"
                "<extra></extra>"
            ),
        )  # fmt: skip
    figure.update_layout(
        xaxis={
            "type": "log", **_axis(_over(FIRST)), "range": [0, math.log10(found[FIRST].largest)],
            "tickvals": [1, 1.5, 2, 3, 4],
        },
        yaxis={
            **_axis(f"share of {'seeds' if len(races) == 1 else 'problems'}"),
            "range": [-0.02, 1.02], "tickformat": ".0%", "dtick": 0.25,
        },
        legend_title_text="score",
    )  # fmt: skip
    choices = {}
    for cost in COSTS:
        corners = list(steps[cost].values())
        data = {
            "x": [_digits(x) for x, _ in corners],
            "y": [_digits(y) for _, y in corners],
            "name": list(names[cost].values()),
        }
        choices[cost] = [data, {"xaxis.title.text": _over(cost)}]
    return _buttons(figure, choices)


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
        color, _, marker = plots.style(order.index(rule))
        above = b.median <= top
        figure.add_scatter(
            **_line(b), name=_text(rule), mode="lines+markers", line=_stroke(order.index(rule)),
            marker={"symbol": _SYMBOLS[marker], "size": 7}, legendgroup=rule,
            error_y={
                "array": _digits(np.clip(b.high, bottom, top) - np.clip(b.median, bottom, top)),
                "arrayminus": _digits(np.clip(b.median, bottom, top) - np.clip(b.low, bottom, top)),
                "thickness": 1, "width": 0,
            },
            hovertemplate=(
                "<b>%{fullData.name}</b><br>%{x:.3g}: loss %{y:.3g}, middle half of seeds "
                "%{customdata[0]:.3g} to %{customdata[1]:.3g}<extra></extra>"
            ),
        )  # fmt: skip
        lost = b.x[~above]
        figure.add_scatter(
            x=_digits(lost), y=[top] * len(lost), name=_text(rule), mode="markers",
            marker={"symbol": "x-thin", "size": 9, "line": {"color": color, "width": 2}},
            legendgroup=rule, showlegend=False, cliponaxis=False,
            hovertemplate="<b>%{fullData.name}</b><br>%{x:.3g}: off the scale<extra></extra>",
        )  # fmt: skip
    scale = {"type": "log", "range": np.log10([bottom, top]).tolist()} if low > 0 else {
        "range": [bottom, top]
    }  # fmt: skip
    figure.update_layout(
        xaxis={"type": "log", **_axis(_text(name.replace("_", " ")))},
        yaxis={**_axis("validation loss"), **scale},
        hovermode="closest",
        margin_t=20,
    )
    return figure


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


def _buttons(figure: go.Figure, choices: dict[str, list]) -> go.Figure:
    """One button above the plot for each choice of data and layout."""
    buttons = [{"label": n, "method": "update", "args": args} for n, args in choices.items()]
    return figure.update_layout(
        updatemenus=[
            {
                "type": "buttons", "direction": "right", "buttons": buttons, "showactive": True,
                "active": list(choices).index(FIRST), "x": 0, "xanchor": "left", "y": 1,
                "yanchor": "bottom", "pad": {"b": 14, "t": 0, "l": 0, "r": 0},
                "font": {"size": 12},
            }
        ]
    )  # fmt: skip


def _retitle(cost: str) -> dict:
    title = {"xaxis.title.text": LABELS[cost], "xaxis.tickformat": _form(cost)}
    return title | {"xaxis.autorange": True}


def _form(cost: str) -> str:
    """Counts as 10k and 2M, seconds as they are."""
    return "~g" if cost == "seconds" else "~s"


def _over(cost: str) -> str:
    return f"{cost}, over those of the fastest"


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


def _log(low: float, high: float) -> dict:
    return {"type": "log", "range": np.log10([low / 1.3, high * 1.3]).tolist()}


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


def _line(b: plots.Band) -> dict:
    return {
        "x": _digits(b.x),
        "y": _digits(b.median),
        "customdata": [list(pair) for pair in zip(_digits(b.low), _digits(b.high), strict=True)],
    }


def _area(b: plots.Band, low: float, high: float) -> dict:
    """The outline of a band, within what is shown."""
    bottom, top = (low / 10, high * 10) if low > 0 else (2 * low - high, 2 * high - low)
    edges = np.clip([b.low, b.high], bottom, top)
    return {
        "x": _digits(np.concatenate([b.x, b.x[::-1]])),
        "y": _digits(np.concatenate([edges[0], edges[1][::-1]])),
    }


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
