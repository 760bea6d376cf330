"""The dashboard of the DAGs: whether they run, end well and end in time."""

from typing import Final

from grafana_foundation_sdk.builders import dashboard

from compose.grafana.page import page
from compose.grafana.panels import Column, Query, State, lines, number, rows, states

FAILED: Final = {"0": State("well", "green"), "1": State("failed", "red")}
PAUSED: Final = {"0": State("no", "text"), "1": State("paused", "orange")}


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
                    "sum(lakehouse_dag_last_run_failed)",
                    says="DAGs whose last run failed.",
                    watched=["DagFailed"],
                    bad_from=1,
                    span=6,
                ),
                number(
                    "Late",
                    "sum(lakehouse_dag_late_runs)",
                    says="Runs that still run after their deadline.",
                    watched=["DagLate"],
                    span=6,
                ),
                number("Paused", "sum(lakehouse_dag_paused)", says="DAGs that somebody paused.", span=6),
                number(
                    "Longest without success",
                    "time() - min(lakehouse_dag_last_success_timestamp_seconds > 0)",
                    says="Of the DAGs that ever succeeded, the one whose success is longest ago.",
                    unit="s",
                    watched=["DagWithoutSuccess"],
                    empty="none has succeeded yet",
                    span=6,
                ),
                rows(
                    "DAGs now",
                    "dag_id",
                    Column("last run", f"max by (dag_id) (lakehouse_dag_last_run_failed{of_dag})", means=FAILED),
                    Column("late runs", f"max by (dag_id) (lakehouse_dag_late_runs{of_dag})", watched=("DagLate",)),
                    Column("paused", f"max by (dag_id) (lakehouse_dag_paused{of_dag})", means=PAUSED),
                    Column(
                        "last success",
                        f"time() - (max by (dag_id) (lakehouse_dag_last_success_timestamp_seconds{of_dag}) > 0)",
                        "s",
                        watched=("DagWithoutSuccess",),
                    ),
                    Column("took", f"max by (dag_id) (lakehouse_dag_last_run_duration_seconds{of_dag})", "s"),
                    says="The newest run of each. Empty where none has ended yet.",
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
