"""What is the same on every dashboard."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Final

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import dashboard as model

from compose.grafana.panels import DATASOURCE, Panel

TAG: Final = "lakehouse"


def page(
    title: str, says: str, sections: Mapping[str, Sequence[Panel]], filtered: tuple[str, str] | None = None
) -> dashboard.Dashboard:
    """Lay panels out under the headings of their rows; those without a heading come first.

    `filtered` is a label that a list at the top of the page chooses from, and a metric that has all its values.
    """
    laid_out = (
        dashboard.Dashboard(title)
        .description(says)
        .tags([TAG])
        .timezone("utc")
        .time("now-6h", "now")
        .refresh("30s")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .readonly()
        .link(
            dashboard.DashboardLink("Lakehouse")
            .type(model.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .as_dropdown(True)
            .keep_time(True)
        )
        .annotation(
            dashboard.AnnotationQuery()
            .name("Alerts")
            .datasource(DATASOURCE)
            .icon_color("red")
            .expr('ALERTS{alertstate="firing"}')
        )
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )
    if filtered:
        laid_out.with_variable(_chosen(*filtered))
    number_of = itertools.count(1)
    for heading, panels in sections.items():
        if heading:
            laid_out.with_row(dashboard.Row(heading).id(next(number_of)))
        for panel in panels:
            laid_out.with_panel(panel.id(next(number_of)))
    return laid_out


def _chosen(label: str, metric: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(label)
        .datasource(DATASOURCE)
        .query(f"label_values({metric}, {label})")
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(model.VariableOption(selected=True, text="All", value="$__all"))
    )
