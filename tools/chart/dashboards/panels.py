"""Panels in the words of our dashboards; the types of Grafana's own schema (its foundation SDK) make the JSON.

Every panel has a title, a sentence that says what it shows and what to do about it, and a unit. A dashboard is a list
of rows of panels, laid out from left to right on Grafana's 24 columns.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as kinds
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
COLORS = {
    "Running": "green",
    "Succeeded": "blue",
    "Failed": "red",
    "Queued": "yellow",
    "Pending": "super-light-yellow",
    "Checking": "light-yellow",
    "Starting": "light-green",
    "Checkpointing": "semi-dark-green",
    "Restarting": "orange",
    "Suspended": "gray",
}
"""Of phases, wherever they are series."""


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a panel.

    Attributes:
        expression: PromQL, with the dashboard's variables.
        legend: name of each of its series, with labels in double braces.
    """

    expression: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel.

    Attributes:
        kind: curves over time, stacked areas, one number for each series, bars, or a table of the present values.
        title: a few words.
        description: what it shows, where it comes from, and what to look for.
        unit: id of Grafana's, such as s, bytes, percentunit, short.
        queries: at least one; of a table, each is a column.
        width: of 24 columns.
        height: in rows of 30 pixels.
        decimals: shown; None leaves it to Grafana.
        thresholds: value and colour from which on it holds, for numbers and bars.
        least: lower end of the axis.
        most: upper end of the axis.
        columns: of a table: names of its columns by label, or by `Value #A` for query A, in their order; other values
            are hidden.
        units: of a table: the columns' units by their names.
        links: of a table: addresses of what a column's cells lead to, by its name.
    """

    kind: Literal["curves", "areas", "number", "bars", "table"]
    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    width: int = 8
    height: int = 7
    decimals: int | None = None
    thresholds: tuple[tuple[float | None, str], ...] = ((None, "green"),)
    least: float | None = None
    most: float | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Row:
    """A heading with the panels below it."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Variable:
    """A choice above the dashboard: a label's values.

    Attributes:
        name: as queries use it.
        label: as people read it.
        query: `label_values(...)`.
        is_many: several or all can be chosen.
    """

    name: str
    label: str
    query: str
    is_many: bool = False


@dataclass(frozen=True, slots=True)
class Mark:
    """Lines across all curves when something has happened.

    Attributes:
        name: what has.
        expression: has a value whenever it has.
        color: of the lines.
    """

    name: str
    expression: str
    color: str


def dashboard_json(
    uid: str,
    title: str,
    description: str,
    *,
    variables: Sequence[Variable],
    rows: Sequence[Row],
    marks: Sequence[Mark] = (),
    since: str = "now-6h",
) -> str:
    """Return a dashboard as JSON that Grafana imports.

    Args:
        uid: stays the same for ever, so that links do.
        title: of the dashboard.
        description: one sentence.
        variables: choices beside that of the data source.
        rows: from top to bottom.
        marks: on all curves.
        since: beginning of the time shown at first.
    """
    made = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags(["sam3ft"])
        .readonly()
        .timezone("browser")
        .refresh("30s")
        .time(since, "now")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .link(
            dashboard.DashboardLink("sam3ft").type(model.DashboardLinkType.DASHBOARDS).tags(["sam3ft"]).keep_time(True)
        )
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )
    for variable in variables:
        made = made.with_variable(_variable(variable))
    for mark in marks:
        made = made.annotation(_annotation(mark))
    for row in rows:
        made = made.with_row(dashboard.Row(row.title))
        for panel in row.panels:
            made = made.with_panel(_KINDS[panel.kind](panel))
    return JSONEncoder(sort_keys=True, indent=1).encode(made.build()) + "\n"


def _variable(variable: Variable) -> Any:
    made = (
        dashboard.QueryVariable(variable.name)
        .label(variable.label)
        .query(variable.query)
        .datasource(SOURCE)
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
    )
    if not variable.is_many:
        return made
    everything = model.VariableOption(text="All", value="$__all", selected=True)
    return made.multi(True).include_all(True).all_value(".*").current(everything)


def _annotation(mark: Mark) -> Any:
    made = dashboard.AnnotationQuery().name(mark.name).datasource(SOURCE).enable(True).icon_color(mark.color)
    return made.expr(mark.expression)


def _targets(panel: Panel, made: Any, *, is_instant: bool = False) -> Any:
    for number, query in enumerate(panel.queries):
        target = prometheus.Dataquery().expr(query.expression).ref_id(chr(ord("A") + number))
        target = target.instant() if is_instant else target.range()
        if panel.kind == "table":
            target = target.format(PromQueryFormat.TABLE)
        if query.legend:
            target = target.legend_format(query.legend)
        made = made.with_target(target)
    return made


def _common(panel: Panel, made: Any) -> Any:
    made = (
        made.title(panel.title)
        .description(panel.description)
        .datasource(SOURCE)
        .unit(panel.unit)
        .span(panel.width)
        .height(panel.height)
    )
    if panel.decimals is not None:
        made = made.decimals(panel.decimals)
    if panel.least is not None:
        made = made.min(panel.least)
    return made if panel.most is None else made.max(panel.most)


def _thresholds(panel: Panel) -> Any:
    steps = [model.Threshold(value=value, color=color) for value, color in panel.thresholds]
    return dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(steps)


def _curves(panel: Panel) -> Any:
    made = _common(panel, timeseries.Panel())
    made = (
        made.line_width(2)
        .fill_opacity(60 if panel.kind == "areas" else 8)
        .show_points(kinds.VisibilityMode.AUTO)
        .span_nulls(False)
        .legend(
            common.VizLegendOptions()
            .display_mode(kinds.LegendDisplayMode.LIST)
            .placement(kinds.LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs([])
        )
        .tooltip(common.VizTooltipOptions().mode(kinds.TooltipDisplayMode.MULTI).sort(kinds.SortOrder.DESCENDING))
    )
    if panel.kind == "areas":
        made = made.stacking(common.StackingConfig().mode(kinds.StackingMode.NORMAL))
        for name, color in COLORS.items():
            made = _colored(made, name, color)
    return _targets(panel, made)


def _colored(made: Any, name: str, color: str) -> Any:
    value = {"mode": "fixed", "fixedColor": color}
    return made.override_by_name(name, [model.DynamicConfigValue(id_val="color", value=value)])


def _reduced() -> Any:
    return common.ReduceDataOptions().calcs(["lastNotNull"]).values(False)


def _number(panel: Panel) -> Any:
    made = _common(panel, stat.Panel()).reduce_options(_reduced()).thresholds(_thresholds(panel))
    has_names = any(query.legend.startswith("{{") for query in panel.queries)
    for name, color in COLORS.items() if has_names else ():
        made = _colored(made, name, color)
    made = made.graph_mode(kinds.BigValueGraphMode.NONE).color_mode(kinds.BigValueColorMode.VALUE)
    made = made.text_mode(kinds.BigValueTextMode.NAME if has_names else kinds.BigValueTextMode.AUTO)
    return _targets(panel, made, is_instant=True)


def _bars(panel: Panel) -> Any:
    made = _common(panel, bargauge.Panel()).reduce_options(_reduced()).thresholds(_thresholds(panel))
    made = made.orientation(kinds.VizOrientation.HORIZONTAL).display_mode(kinds.BarGaugeDisplayMode.BASIC)
    return _targets(panel, made, is_instant=True)


def _table(panel: Panel) -> Any:
    made = _targets(panel, _common(panel, table.Panel()), is_instant=True)
    order = {name: place for place, name in enumerate(panel.columns)}
    made = made.with_transformation(model.DataTransformerConfig(id_val="merge", options={}))
    values = [f"Value #{chr(ord('A') + number)}" for number in range(len(panel.queries))]
    hidden = [name for name in ("Time", "Value", *values) if name not in panel.columns]
    options = {
        "indexByName": order,
        "renameByName": dict(panel.columns),
        "excludeByName": dict.fromkeys(hidden, True),
    }
    made = made.with_transformation(model.DataTransformerConfig(id_val="organize", options=options))
    for name, unit in panel.units.items():
        made = made.override_by_name(name, [model.DynamicConfigValue(id_val="unit", value=unit)])
    for name, url in panel.links.items():
        link = {"title": "Open", "url": url}
        made = made.override_by_name(name, [model.DynamicConfigValue(id_val="links", value=[link])])
    return made


_KINDS: Mapping[str, Callable[[Panel], Any]] = {
    "curves": _curves,
    "areas": _curves,
    "number": _number,
    "bars": _bars,
    "table": _table,
}
