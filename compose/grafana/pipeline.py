"""The dashboard that is looked at first: whether rows reach their tables, in time and all of them."""

from typing import Final

from grafana_foundation_sdk.builders import dashboard

from compose.grafana.page import page
from compose.grafana.panels import Query, State, lines, number, states
from compose.grafana.rules import bounds

UP: Final = {"0": State("down", "red"), "1": State("up", "green")}


def build() -> dashboard.Dashboard:
    """Lay the dashboard out."""
    events, others = '{table="events.user_actions"}', '{table!="events.user_actions"}'
    return page(
        "Lakehouse: pipeline health",
        "Whether rows reach their tables: in time, all of them, and how many are set aside.",
        {
            "": [
                number(
                    "Alerts firing",
                    'count(ALERTS{alertstate="firing"}) or vector(0)',
                    says="Alerts that fire now. Alertmanager names them; the panels below show why.",
                    watched=["NotificationsFailing"],
                    bad_from=1,
                ),
                number(
                    "Servers down",
                    "count(lakehouse_server_up) - sum(lakehouse_server_up)",
                    says="Servers that did not answer the exporter's last look.",
                    watched=["ServerDown"],
                    bad_from=1,
                ),
                number(
                    "Freshness against target",
                    "max(lakehouse_freshness_seconds / lakehouse_freshness_target_seconds)",
                    says="Of the table or mart that lags most: how long a row waits for it, as a share of what it may.",
                    unit="percentunit",
                    watched=["FreshnessOverTarget"],
                    bad_from=1,
                ),
                number(
                    "Messages waiting",
                    "sum(lakehouse_kafka_lag_records)",
                    says="Messages in Kafka that are in no table yet.",
                    watched=["KafkaLagGrowing"],
                ),
                number(
                    "Ledger gaps",
                    "sum(max by (ledger) (lakehouse_ledger_gaps)"
                    " or max by (ledger) (last_over_time(lakehouse_ledger_gaps[3d])))",
                    says="What the last audit of each ledger found lost, doubled or changed by hand. Must be 0.",
                    watched=["LedgerGap"],
                ),
                number(
                    "Collectors blind",
                    "count(lakehouse_exporter_collector_up) - sum(lakehouse_exporter_collector_up)",
                    says="Collectors of the exporter whose last look failed; what they tell is missing or old. "
                    "No number at all: the exporter itself does not answer.",
                    watched=["CollectorDown", "ExporterBlind"],
                    bad_from=1,
                ),
            ],
            "In time": [
                lines(
                    "Freshness of events",
                    Query(f"lakehouse_freshness_seconds{events}", "{{table}}"),
                    Query(f"lakehouse_freshness_target_seconds{events}", "objective"),
                    says="Age of the oldest event that waits for its table; 0 when none waits. "
                    "99 % of all five-minute windows are to stay below the objective. "
                    "A line that ends while the exporter looks well: the table is gone.",
                    unit="s",
                    watched=["FreshnessOverTarget", "FactsGone"],
                ),
                lines(
                    "Windows of five minutes that missed the objective",
                    *map(_missed, ("1h", "6h", "1d", "3d")),
                    says="The budget is 1 %, so each percent is one of the burn rate.",
                    unit="percentunit",
                    watched=["FreshnessBudgetBurn"],
                    empty="no window has ended yet",
                ),
                lines(
                    "Freshness of other tables and marts",
                    Query(f"lakehouse_freshness_seconds{others}", "{{table}}"),
                    Query(f"max(lakehouse_freshness_target_seconds{others})", "target"),
                    says="Age of the oldest row that waits upstream; 0 when none waits.",
                    unit="s",
                    watched=["FreshnessOverTarget"],
                    span=8,
                ),
                lines(
                    "Oldest waiting message",
                    Query("lakehouse:kafka_lag_seconds:max", "{{topic}}"),
                    says="Above the line and with ever more messages waiting, ingest stands still or is too slow.",
                    unit="s",
                    watched=["KafkaLagGrowing"],
                    span=8,
                ),
                lines(
                    "Messages waiting, by partition",
                    Query("lakehouse_kafka_lag_records", "{{topic}} {{partition}}"),
                    says="One line far above the others: its partition is stuck, or its key too frequent.",
                    watched=["KafkaLagGrowing"],
                    span=8,
                ),
            ],
            "All of them": [
                lines(
                    "Rows by what became of them",
                    Query("sum(rate(lakehouse_rows_published_total[$__rate_interval]))", "published"),
                    Query("sum(rate(lakehouse_rows_quarantined_total[$__rate_interval]))", "quarantined"),
                    Query("sum(rate(lakehouse_rows_late_total[$__rate_interval]))", "late"),
                    Query("sum(rate(lakehouse_rows_replayed_total[$__rate_interval]))", "replayed"),
                    says="Rows a second over all tables. Late rows are published ones of an earlier day.",
                    unit="rowsps",
                    span=8,
                ),
                lines(
                    "Share set aside",
                    Query("lakehouse:rows_quarantined:ratio15m", "{{table}}"),
                    says="Of what came for a table in 15 minutes, the share that went to quarantine.",
                    unit="percentunit",
                    watched=["QuarantineRateHigh"],
                    empty="less than 100 set aside in 15 minutes",
                    span=8,
                ),
                lines(
                    "Files refused",
                    Query('lakehouse:rows_quarantined:delta15m{table="reporting.file_aggregates"}', "{{table}}"),
                    says="Announced files and notifications that were set aside in 15 minutes; "
                    "what share they are, their lines do not tell.",
                    watched=["FilesRefused"],
                    empty="nobody has announced files",
                    span=8,
                ),
                lines(
                    "Rows set aside, by reason",
                    Query(
                        "sum by (table, reason) (rate(lakehouse_rows_quarantined_total[$__rate_interval]))",
                        "{{table}}: {{reason}}",
                    ),
                    says="Rows a second that went to quarantine.",
                    unit="rowsps",
                    span=8,
                ),
                lines(
                    "Ledger gaps",
                    Query("lakehouse_ledger_gaps", "{{ledger}}"),
                    says="Of each ledger, by its last audit. Must be 0.",
                    watched=["LedgerGap"],
                    span=8,
                ),
                lines(
                    "Age of the last audit",
                    Query("lakehouse_ledger_audit_age_seconds", "{{ledger}}"),
                    says="Since each ledger was last audited to the end: a gap that is younger is not seen yet. "
                    "A line that ends while the exporter looks well: the ledger is gone.",
                    unit="s",
                    watched=["FactsGone"],
                    span=8,
                ),
            ],
            "Servers and exporter": [
                states(
                    "Servers",
                    Query("lakehouse_server_up", "{{server}}"),
                    UP,
                    says="Whether each server answered the exporter's small request.",
                    watched=["ServerDown"],
                ),
                lines(
                    "Latency of the servers",
                    Query("lakehouse_server_latency_seconds", "{{server}}"),
                    says="How long each took to answer the same request; a gap while it did not.",
                    unit="s",
                ),
                lines(
                    "Age of the facts",
                    Query("lakehouse_exporter_collector_age_seconds", "{{collector}}"),
                    says="Dear looks are kept for a while; a line that only rises is a look that never ends.",
                    unit="s",
                    watched=["CollectorStale"],
                ),
                lines(
                    "Cost",
                    Query("lakehouse_exporter_scrape_cpu_seconds", "CPU between two scrapes"),
                    Query("lakehouse_exporter_collector_duration_seconds", "look of {{collector}}"),
                    says="CPU that the exporter used, and how long each collector's last look took.",
                    unit="s",
                ),
            ],
        },
    )


def _missed(window: str) -> Query:
    metric = f"lakehouse:freshness_missed:ratio{window}"
    return Query(metric, f"last {window}, alert from {bounds('FreshnessBudgetBurn', metric)[0].value:.1%}")
