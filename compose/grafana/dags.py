"""The dashboard of the DAGs: whether they run, end well and end in time."""

from typing import Final

from grafana_foundation_sdk.builders import dashboard

from compose.grafana.page import page
from compose.grafana.panels import Column, Query, State, lines, number, rows, states

FAILED: Final = {"0": State("well", "green"), "1": State("failed", "red")}
PAUSED: Final = {"0": State("no", "text"), "1": State("paused", "orange")}
UNPAUSED: Final = "unless on (dag_id) max by (dag_id) (lakehouse_dag_paused) == 1"
"""What the alert rules leave out, and so whatever they colour."""


def build() -> dashboard.Dashboard:
    """Lay the dashboard out."""
    of_dag = '{dag_id=~"$dag_id"}'
    return page(
        "Lakehouse: DAGs",
        "Whether the DAGs run, end well and end in time.",
        {
            "": [
                number(
                    "Failed",
                    f"sum(max by (dag_id) (lakehouse_dag_last_run_failed) {UNPAUSED})",
                    says="DAGs whose last run failed, without those that are paused.",
                    watched=["DagFailed"],
                    bad_from=1,
                    empty="none has run, or all are paused",
                    span=6,
                ),
                number(
                    "Late",
                    f"sum(max by (dag_id) (lakehouse_dag_late_runs) {UNPAUSED})",
                    says="Runs that go on past their deadline, without those of DAGs that are paused.",
                    watched=["DagLate"],
                    empty="all are paused",
                    span=6,
                ),
                number("Paused", "sum(lakehouse_dag_paused)", says="DAGs that somebody paused.", span=6),
                number(
                    "Longest without success",
                    f"time() - min(max by (dag_id) (lakehouse_dag_last_success_timestamp_seconds) {UNPAUSED})",
                    says="Of the DAGs that ever succeeded and are not paused, the one whose success is longest ago.",
                    unit="s",
                    watched=["DagWithoutSuccess"],
                    empty="none has succeeded, or all are paused",
                    span=6,
                ),
                rows(
                    "DAGs now",
                    "dag_id",
                    Column("last run", f"max by (dag_id) (lakehouse_dag_last_run_failed{of_dag})", means=FAILED),
                    Column(
                        "late runs",
                        f"max by (dag_id) (lakehouse_dag_late_runs{of_dag}) {UNPAUSED}",
                        watched=("DagLate",),
                    ),
                    Column("paused", f"max by (dag_id) (lakehouse_dag_paused{of_dag})", means=PAUSED),
                    Column(
                        "last success",
                        f"time() - max by (dag_id) (lakehouse_dag_last_success_timestamp_seconds{of_dag}) {UNPAUSED}",
                        "s",
                        watched=("DagWithoutSuccess",),
                    ),
                    Column("took", f"max by (dag_id) (lakehouse_dag_last_run_duration_seconds{of_dag})", "s"),
                    says="The newest run of each. Empty where none has ended yet; "
                    "of a paused DAG neither late runs nor the last success matter.",
                ),
            ],
            "Over time": [
                states(
                    "How runs ended",
                    Query(f"lakehouse_dag_last_run_failed{of_dag}", "{{dag_id}}"),
                    FAILED,
                    says="Red from a run that failed until one that ended well.",
                ),
                lines(
                    "Duration of the last run",
                    Query(f"lakehouse_dag_last_run_duration_seconds{of_dag}", "{{dag_id}}"),
                    says="A line that creeps upwards meets its deadline some day.",
                    unit="s",
                ),
            ],
        },
        ("dag_id", "lakehouse_dag_paused"),
    )
