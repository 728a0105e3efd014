"""A picture of a dashboard from the answers to its own queries: its layout, titles, units and data.

It is no Grafana, and does not show how Grafana would draw; it shows what it would draw. A browser makes the PNG.
"""

import datetime as dt
import html
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.dates import DateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

Ask = Callable[[Mapping[str, Any], Mapping[str, Any]], list[dict[str, Any]]]
"""Answers a query of a panel: the panel and the query in, series out."""
_COLORS = ("#73bf69", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#8ab8ff", "#fade2a", "#96d98d", "#ffa6b0", "#c0d8ff")
_NAMED = {"green": "#73bf69", "red": "#f2495c", "orange": "#ff9830", "blue": "#5794f2", "purple": "#b877d9"}
_INK, _GRID = "#ccccdc", "#2c3235"
_STYLE: dict[Any, Any] = {
    "font.size": 8,
    "text.color": _INK,
    "axes.edgecolor": _GRID,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "sam3ft",
}
_PAGE = """<!doctype html><meta charset="utf-8"><title>{title}</title><style>
body{{background:#111217;color:#ccccdc;font:13px Inter,Helvetica,Arial,sans-serif;margin:16px;width:1360px}}
h1{{font-size:17px;font-weight:500}} h1 small{{color:#8e8e99;font-weight:400;margin-left:12px}}
.grid{{display:grid;grid-template-columns:repeat(24,1fr);gap:8px;grid-auto-rows:30px}}
.panel{{background:#181b1f;border:1px solid #2c3235;border-radius:3px;padding:6px 10px;overflow:hidden;
display:flex;flex-direction:column}}
.panel h2{{font-size:12.5px;font-weight:500;margin:0 0 2px}} .panel svg{{flex:1;min-height:0;width:100%}}
.row{{align-self:end;font-size:15px;font-weight:500}}
.number{{flex:1;display:flex;align-items:center;justify-content:center;font-size:30px;gap:18px}}
.bar{{display:flex;align-items:center;gap:8px;margin:3px 0}} .bar span{{width:32%;overflow:hidden;white-space:nowrap}}
.bar b{{width:62px;text-align:right;font-weight:500}} .bar div{{flex:1;background:#22252b;height:14px}}
.bar i{{display:block;height:14px}}
table{{border-collapse:collapse;width:100%;font-size:12px}} td,th{{text-align:left;padding:3px 6px;
border-bottom:1px solid #2c3235;font-weight:400}} th{{color:#6e9fff}} .none{{color:#8e8e99;margin:auto}}
</style><h1>{title}<small>{description}</small></h1><div class="grid" data-height="{height}">{panels}</div>"""


def board_page(board: Mapping[str, Any], ask: Ask) -> str:
    """Return a page with every panel of a dashboard where it stands."""
    panels = "".join(_panel(panel, ask) for panel in board["panels"])
    return _PAGE.format(
        title=html.escape(board["title"]),
        description=html.escape(board.get("description", "")),
        panels=panels,
        height=90 + 38 * max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"]),
    )


def _panel(panel: Mapping[str, Any], ask: Ask) -> str:
    place = panel["gridPos"]
    style = f"grid-column:{place['x'] + 1}/span {place['w']};grid-row:{place['y'] + 1}/span {place['h']}"
    title = html.escape(panel["title"])
    if panel["type"] == "row":
        return f'<div class="row" style="{style}">{title}</div>'
    answers = [(target, ask(panel, target)) for target in panel["targets"]]
    body = (
        _BODIES[panel["type"]](panel, answers)
        if any(found for _, found in answers)
        else '<div class="none">No data</div>'
    )
    return f'<div class="panel" style="{style}"><h2>{title}</h2>{body}</div>'


Answers = Sequence[tuple[Mapping[str, Any], list[dict[str, Any]]]]


def _name(target: Mapping[str, Any], series: Mapping[str, Any]) -> str:
    legend = target.get("legendFormat") or ""
    return re.sub(r"{{\s*(\w+)\s*}}", lambda found: str(series["metric"].get(found[1], "")), legend)


def _unit(panel: Mapping[str, Any]) -> str:
    return str(panel["fieldConfig"]["defaults"]["unit"])


def _curves(panel: Mapping[str, Any], answers: Answers) -> str:
    place = panel["gridPos"]
    is_stacked = panel["fieldConfig"]["defaults"]["custom"].get("stacking", {}).get("mode") == "normal"
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(place["w"] * 0.58, place["h"] * 0.36), layout="constrained")
        axes = figure.subplots()
        drawn = [(_name(target, series), series["values"]) for target, found in answers for series in found]
        if is_stacked:
            _stack(axes, drawn)
        else:
            for (name, values), color in zip(drawn, _COLORS * (1 + len(drawn) // len(_COLORS)), strict=False):
                moments = [dt.datetime.fromtimestamp(float(at), tz=dt.UTC) for at, _ in values]
                axes.plot(moments, [float(value) for _, value in values], color=color, linewidth=1.3, label=name)
        axes.grid(axis="y", linewidth=0.6)
        axes.tick_params(length=0)
        axes.xaxis.set_major_formatter(DateFormatter("%H:%M:%S"))
        axes.xaxis.set_major_locator(MaxNLocator(4))
        unit = _unit(panel)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: said(value, unit)))
        low = panel["fieldConfig"]["defaults"].get("min")
        if low is not None:
            axes.set_ylim(bottom=low)
        if drawn:
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=min(4, len(drawn)), handlelength=1.0)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :]


def _stack(axes: Any, drawn: Sequence[tuple[str, Sequence[Sequence[Any]]]]) -> None:
    times = sorted({float(at) for _, values in drawn for at, _ in values})
    heights = [{float(at): float(value) for at, value in values} for _, values in drawn]
    moments = [dt.datetime.fromtimestamp(at, tz=dt.UTC) for at in times]
    rows = [[height.get(at, 0.0) for at in times] for height in heights]
    axes.stackplot(moments, rows, labels=[name for name, _ in drawn], colors=_COLORS, alpha=0.7)


def _values(answers: Answers) -> list[tuple[str, float]]:
    return [(_name(target, series), float(series["value"][1])) for target, found in answers for series in found]


def _color(panel: Mapping[str, Any], value: float) -> str:
    steps = panel["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", [])
    reached = [step["color"] for step in steps if step["value"] is None or value >= step["value"]]
    return _NAMED.get(reached[-1] if reached else "green", "#73bf69")


def _number(panel: Mapping[str, Any], answers: Answers) -> str:
    shows_name = panel["options"].get("textMode") == "name"
    parts = [
        f'<span style="color:{_color(panel, value)}">{html.escape(text)}</span>'
        for name, value in _values(answers)
        for text in (name if shows_name else said(value, _unit(panel)),)
    ]
    return f'<div class="number">{"".join(parts)}</div>'


def _bars(panel: Mapping[str, Any], answers: Answers) -> str:
    values = sorted(_values(answers), key=lambda item: -item[1])
    most = max((value for _, value in values), default=1.0) or 1.0
    return "".join(
        f'<div class="bar"><span>{html.escape(name)}</span><div><i style="width:{100 * value / most:.1f}%;'
        f'background:{_color(panel, value)}"></i></div><b>{html.escape(said(value, _unit(panel)))}</b></div>'
        for name, value in values
    )


def _table(panel: Mapping[str, Any], answers: Answers) -> str:
    organized = next(it["options"] for it in panel["transformations"] if it["id"] == "organize")
    names: Mapping[str, str] = organized["renameByName"]
    labels = [label for label in names if not label.startswith("Value #")]
    units = {it["matcher"]["options"]: it["properties"][0]["value"] for it in panel["fieldConfig"]["overrides"]}
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for target, found in answers:
        for series in found:
            key = tuple(series["metric"].get(label, "") for label in ("namespace", "job_name", "type"))
            row = rows.setdefault(key, {})
            row.update({label: series["metric"][label] for label in labels if label in series["metric"]})
            column = f"Value #{target['refId']}"
            if column in names:
                row[column] = said(float(series["value"][1]), str(units.get(names[column], "short")))
    order = sorted(names, key=lambda name: organized["indexByName"][name])
    head = "".join(f"<th>{html.escape(names[name])}</th>" for name in order)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(row.get(name, ''))}</td>" for name in order) + "</tr>"
        for _, row in sorted(rows.items())
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def said(value: float, unit: str) -> str:
    """Return a value in a unit of Grafana's, short."""
    if not math.isfinite(value):
        return "-"
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    if unit == "s":
        return _duration(value)
    if unit == "bytes":
        power = min(3, int(math.log(max(1.0, abs(value)), 1024)))
        return f"{value / 1024**power:.3g} {('', 'Ki', 'Mi', 'Gi')[power]}B"
    suffix = {"reqps": " req/s", "ops": " ops/s", "cps": " c/s"}.get(unit, "")
    return f"{value:.2e}" if unit == "sci" else f"{value:.3g}{suffix}"


def _duration(seconds: float) -> str:
    if abs(seconds) < 1:
        return f"{1000 * seconds:.3g} ms"
    if abs(seconds) < 120:
        return f"{seconds:.3g} s"
    if abs(seconds) < 7200:
        return f"{seconds / 60:.3g} min"
    return f"{seconds / 3600:.3g} h"


_BODIES: Mapping[str, Callable[[Mapping[str, Any], Answers], str]] = {
    "timeseries": _curves,
    "stat": _number,
    "bargauge": _bars,
    "table": _table,
}
