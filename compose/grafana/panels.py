"""The vocabulary of the dashboards: one function for each kind of panel, so that all of a kind look alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.models import common as looks
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from compose.grafana.rules import alerts, bounds, metrics_in

Panel = stat.Panel | statetimeline.Panel | table.Panel | timeseries.Panel
_P = TypeVar("_P", stat.Panel, statetimeline.Panel, table.Panel, timeseries.Panel)

DATASOURCE: Final = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
WIDTH: Final = 24
"""Of Grafana's grid, in columns."""
_COLOURS: Final = {"warning": "orange", "critical": "red"}
_PLAIN: Final = "text"
_GOOD: Final = "green"


class State(NamedTuple):
    """What stands for a value that is a state."""

    text: str
    colour: str


@dataclass(frozen=True, slots=True)
class Query:
    """What a panel asks Prometheus, and what each line of the answer is called."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a list: what it asks, its unit, the alerts that colour it, and the states its values stand for."""

    title: str
    expr: str
    unit: str = "short"
    watched: tuple[str, ...] = ()
    means: Mapping[str, State] | None = None


def number(
    title: str,
    expr: str,
    *,
    says: str,
    unit: str = "short",
    watched: Sequence[str] = (),
    bad_from: float | None = None,
    empty: str = "",
    span: int = 4,
) -> stat.Panel:
    """Show one number as it is now, and behind it what it was like before.

    With `bad_from` it is red from there, for what is reckoned from things that have an alert each.
    """
    panel = (
        stat.Panel()
        .graph_mode(looks.BigValueGraphMode.AREA)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .targets([_ranged(Query(expr, title), 0)])
        .span(span)
        .height(4)
    )
    steps = _steps(watched, expr) if bad_from is None else [(None, _GOOD), (bad_from, "red")]
    plain = len(steps) == 1
    panel.color_mode(looks.BigValueColorMode.NONE if plain else looks.BigValueColorMode.BACKGROUND)
    return _dressed(panel, title, says, unit, watched, empty).thresholds(_thresholds(steps))


def lines(
    title: str,
    *queries: Query,
    says: str,
    unit: str = "short",
    watched: Sequence[str] = (),
    empty: str = "",
    span: int = 12,
) -> timeseries.Panel:
    """Draw lines over time, and a dashed one where an alert begins."""
    panel = (
        timeseries.Panel()
        .min(0)
        .line_width(2)
        .fill_opacity(8)
        .show_points(looks.VisibilityMode.NEVER)
        .color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.PALETTE_CLASSIC))
        .thresholds_style(common.GraphThresholdsStyleConfig().mode(looks.GraphTresholdsStyleMode.DASHED))
        .thresholds(_thresholds(_steps(watched, *(query.expr for query in queries))))
        .tooltip(common.VizTooltipOptions().mode(looks.TooltipDisplayMode.MULTI).sort(looks.SortOrder.DESCENDING))
        .legend(
            common.VizLegendOptions()
            .display_mode(looks.LegendDisplayMode.TABLE)
            .placement(looks.LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs(["lastNotNull", "max"])
        )
        .targets([_ranged(query, place) for place, query in enumerate(queries)])
        .span(span)
        .height(8)
    )
    return _dressed(panel, title, says, unit, watched, empty)


def states(
    title: str, query: Query, means: Mapping[str, State], *, says: str, watched: Sequence[str] = (), span: int = 12
) -> statetimeline.Panel:
    """Draw a bar for each series, in the colour of its state."""
    panel = (
        statetimeline.Panel()
        .mappings([_mapping(means)])
        .show_value(looks.VisibilityMode.NEVER)
        .merge_values(True)
        .legend(
            common.VizLegendOptions()
            .display_mode(looks.LegendDisplayMode.LIST)
            .placement(looks.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .targets([_ranged(query, 0)])
        .span(span)
        .height(8)
    )
    return _dressed(panel, title, says, "short", watched, "")


def rows(title: str, label: str, *columns: Column, says: str, height: int = 9) -> table.Panel:
    """List what the label names, a row each, with the newest value of each column."""
    panel = (
        table.Panel()
        .targets([_newest(column) for column in columns])
        .with_transformation(model.DataTransformerConfig(id_val="merge", options={}))
        .with_transformation(
            model.DataTransformerConfig(
                id_val="organize",
                options={
                    "excludeByName": {"Time": True},
                    "indexByName": {name: place for place, name in enumerate([label, *map(_field, columns)])},
                    "renameByName": {_field(column): column.title for column in columns},
                },
            )
        )
        .sort_by([common.TableSortByFieldState().display_name(label)])
        .span(WIDTH)
        .height(height)
    )
    for column in columns:
        panel.override_by_name(column.title, _properties(column))
    watched = [name for column in columns for name in column.watched]
    return _dressed(panel, title, says, "short", watched, "")


def _dressed(panel: _P, title: str, says: str, unit: str, watched: Sequence[str], empty: str) -> _P:
    """Give a panel what every one has; `empty` stands where a query may rightly answer nothing."""
    runbooks = [f"`{runbook}`" for name in watched for runbook in {alert.runbook for alert in alerts(name)}]
    described = f"{says}\n\nRunbook: {', '.join(runbooks)}" if runbooks else says
    panel.title(title).description(described).datasource(DATASOURCE).unit(unit)
    return panel.no_value(empty) if empty else panel


def _steps(watched: Sequence[str], *exprs: str) -> list[tuple[float | None, str]]:
    """Where which colour begins: at the first bound of each alert on each metric that is shown."""
    shown = metrics_in(" ".join(expr.partition(" unless ")[0] for expr in exprs))  # what is left out is not shown
    begins = {
        (bound.value, bound.below): _COLOURS[bound.severity]
        for name in watched
        for metric in sorted(shown)
        for bound in bounds(name, metric)
    }
    if not begins:
        return [(None, _PLAIN)]
    low, high = ([each for each in sorted(begins.items()) if each[0][1] is below] for below in (True, False))
    # Grafana colours a value that equals the step; a count that may not be above 0 is bad from 1.
    values = [None, *(value for (value, _), _ in low), *(value or 1 for (value, _), _ in high)]
    return list(zip(values, [*(colour for _, colour in low), _GOOD, *(colour for _, colour in high)], strict=True))


def _thresholds(steps: Sequence[tuple[float | None, str]]) -> dashboard.ThresholdsConfig:
    found = [model.Threshold(value, colour) for value, colour in steps]
    return dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(found)


def _mapping(means: Mapping[str, State]) -> model.ValueMap:
    return model.ValueMap(
        {value: model.ValueMappingResult(text=state.text, color=state.colour) for value, state in means.items()}
    )


def _properties(column: Column) -> list[model.DynamicConfigValue]:
    properties = [model.DynamicConfigValue("unit", column.unit)]
    if column.means:
        properties.append(model.DynamicConfigValue("mappings", [_mapping(column.means)]))
    if column.watched:
        steps = _steps(column.watched, column.expr)
        properties.append(model.DynamicConfigValue("thresholds", _thresholds(steps).build()))
    if column.means or column.watched:
        properties.append(model.DynamicConfigValue("custom.cellOptions", {"type": "color-text"}))
    return properties


def _ranged(query: Query, place: int) -> prometheus.Dataquery:
    asked = prometheus.Dataquery().expr(query.expr).legend_format(query.legend)
    return asked.range().ref_id(chr(ord("A") + place))


def _newest(column: Column) -> prometheus.Dataquery:
    asked = prometheus.Dataquery().expr(column.expr).format(PromQueryFormat.TABLE)
    return asked.instant().ref_id(column.title)


def _field(column: Column) -> str:
    """What Grafana calls the values of a query whose answer is a table."""
    return f"Value #{column.title}"
