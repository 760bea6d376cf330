"""What the DAGs tell people: a task failed for good, or a run missed its deadline.

An alert goes to every channel that has a Connection: e-mail, Slack, PagerDuty. It links to the run in the UI and to the
DAG's heading in `docs/operations.md`. Without any of these Connections it is a line of the log.
"""

import html
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from airflow.sdk import Connection, Context, Variable
from airflow.sdk.definitions.callback import AsyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference
from airflow.sdk.exceptions import AirflowNotFoundException
from asgiref.sync import sync_to_async

EMAIL: Final = "alerts_email"
SLACK: Final = "alerts_slack"
PAGERDUTY: Final = "alerts_pagerduty"
RUNBOOKS: Final = "runbooks_url"
RUNBOOKS_MEANING: Final = "Address at which people read this page; unset: the file in the clone of the project."

PAGERDUTY_HOST: Final = "https://events.pagerduty.com"
TIMEOUT_SECONDS: Final = 10
_OPERATIONS: Final = Path(__file__).resolve().parents[1] / "docs" / "operations.md"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Alert:
    """One thing that somebody should know.

    Attributes:
        key: the same for alerts about the same trouble, so that PagerDuty keeps them in one incident.
        severity: one of PagerDuty's.
        summary: one line.
        detail: what the error said; empty when there was none.
        run_url: of the run in Airflow's UI.
        runbook_url: what to do about it.
    """

    key: str
    severity: str
    summary: str
    detail: str
    run_url: str
    runbook_url: str

    @property
    def text(self) -> str:
        """All of it in plain lines."""
        lines = (self.summary, self.detail, f"Run: {self.run_url}", f"Runbook: {self.runbook_url}")
        return "\n".join(line for line in lines if line)


def deadline(within: timedelta) -> DeadlineAlert:
    """Alert when a run has not ended so long after it was queued; the triggerer sends it."""
    # Not the executor: Airflow 3.3 lets a callback that runs there read no Variable and no Connection.
    # Queued, because only that moment is known of every run: one that somebody triggered has no logical date.
    return DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT, interval=within, callback=AsyncCallback(deadline_missed)
    )


def task_failed(context: Context) -> None:
    """Tell that a task failed and is not tried again; `on_failure_callback` of every task."""
    instance = context["ti"]  # pyright: ignore[reportTypedDictNotRequiredAccess]
    told = context.get("exception")
    _tell(
        Alert(
            key=f"{instance.dag_id} failed",
            severity="error",
            summary=f"{instance.dag_id}: task {instance.task_id} failed in run {instance.run_id}",
            detail=str(told) if told else "",
            run_url=_run_url(instance.dag_id, instance.run_id),
            runbook_url=runbook_url(instance.dag_id),
        )
    )


async def deadline_missed(context: Mapping[str, Any]) -> None:
    """Tell that a run has not ended by its deadline; `callback` of every deadline."""
    await sync_to_async(_tell_of_delay)(context)  # in a thread, so that no other trigger waits for a mail server


def _tell_of_delay(context: Mapping[str, Any]) -> None:
    run, due = context["dag_run"], context["deadline"]["deadline_time"]
    dag_id, run_id = run["dag_id"], run["dag_run_id"]
    if run["run_type"] == "backfill" or run["state"] == "failed":
        _log.info("run %s of %s: a backfill may take its time, and a failure was told already", run_id, dag_id)
        return
    _tell(
        Alert(
            key=f"{dag_id} late",
            severity="warning",
            summary=f"{dag_id}: run {run_id} is {run['state']} and was due at {due}",
            detail="",
            run_url=_run_url(dag_id, run_id),
            runbook_url=runbook_url(dag_id),
        )
    )


def runbook_url(dag_id: str) -> str:
    """The DAG's heading in `docs/operations.md`, where people read that page."""
    page = Variable.get(RUNBOOKS, default=None) or _OPERATIONS.as_uri()
    return f"{page}#{dag_id}"


def _run_url(dag_id: str, run_id: str) -> str:
    from airflow.sdk.configuration import conf  # noqa: PLC0415 - only where an alert is sent

    base: str = conf.get("api", "base_url", fallback="http://localhost:8080/")
    return f"{base.rstrip('/')}/dags/{dag_id}/runs/{quote(run_id, safe='')}"


def _tell(alert: Alert) -> None:
    _log.error("%s", alert.text)
    problems: list[Exception] = []
    for connection_id, (send, _) in CHANNELS.items():
        try:
            connection = Connection.get(connection_id)
        except AirflowNotFoundException:
            continue
        try:
            send(connection, alert)
        except Exception as error:  # noqa: BLE001 - one channel that is down must not silence the others
            problems.append(error)
        else:
            _log.info("told %s", connection_id)
    if problems:
        raise ExceptionGroup("some channels did not take the alert", problems)


def _email(connection: Connection, alert: Alert) -> None:
    from airflow.providers.smtp.hooks.smtp import SmtpHook  # noqa: PLC0415 - dear to import, and seldom needed

    lines = (alert.summary, alert.detail)
    links = (("Run", alert.run_url), ("Runbook", alert.runbook_url))
    parts = [f"<p>{html.escape(line)}</p>" for line in lines if line]
    parts += [f'<p>{name}: <a href="{html.escape(url)}">{html.escape(url)}</a></p>' for name, url in links]
    with SmtpHook(smtp_conn_id=EMAIL) as mail:
        mail.send_email_smtp(to=connection.extra_dejson["to"], subject=alert.summary, html_content="".join(parts))


def _slack(_: Connection, alert: Alert) -> None:
    from airflow.providers.slack.hooks.slack_webhook import SlackWebhookHook  # noqa: PLC0415 - as above

    text = html.escape(alert.text, quote=False)  # or Slack would take what stands in angle brackets for a link
    SlackWebhookHook(slack_webhook_conn_id=SLACK, timeout=TIMEOUT_SECONDS).send(text=text)


def _pagerduty(connection: Connection, alert: Alert) -> None:
    import httpx  # noqa: PLC0415 - as above

    # Source: PagerDuty's Events API v2. The provider's hook knows one address only; accounts in Europe have another.
    event = {
        "routing_key": connection.password,
        "event_action": "trigger",
        "dedup_key": alert.key,
        "client": "Airflow",
        "client_url": alert.run_url,
        "payload": {
            "summary": alert.summary,
            "severity": alert.severity,
            "source": "airflow",
            "custom_details": {"detail": alert.detail, "run": alert.run_url, "runbook": alert.runbook_url},
        },
    }
    host = (connection.host or PAGERDUTY_HOST).rstrip("/")
    httpx.post(f"{host}/v2/enqueue", json=event, timeout=TIMEOUT_SECONDS).raise_for_status()


CHANNELS: Final[Mapping[str, tuple[Callable[[Connection, Alert], None], str]]] = {
    EMAIL: (_email, "Type `smtp`: mail server; extra `from_email` and `to`, one address or several with commas."),
    SLACK: (_slack, "Type `slackwebhook`: password: the webhook's address."),
    PAGERDUTY: (_pagerduty, f"Type `pagerduty_events`: password: integration key; host: `{PAGERDUTY_HOST}` if unset."),
}
"""How an alert goes to each Connection, and what that must hold."""
