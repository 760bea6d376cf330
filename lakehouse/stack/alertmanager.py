"""Alertmanager: groups the alerts of Prometheus and tells people by e-mail, Slack and PagerDuty."""

from pathlib import Path
from urllib.parse import urlsplit

from lakehouse.settings import PROJECT_ROOT, Settings
from lakehouse.stack import artifacts, private, templates
from lakehouse.stack.server import Server, answers

CONFIGURATION = PROJECT_ROOT / "compose" / "alertmanager"


def server(settings: Settings) -> Server:
    """Describe the Alertmanager server."""
    address = urlsplit(settings.alertmanager.url)
    data = settings.home / "data" / "alertmanager"
    return Server(
        name="alertmanager",
        profile="observe",
        version=artifacts.GO_PARTS["alertmanager"].version.removeprefix("v"),
        port=address.port,
        url=settings.alertmanager.url,
        command=(
            str(artifacts.go_program(settings, "alertmanager")),
            f"--config.file={_place(settings) / 'alertmanager.yml'}",
            f"--storage.path={data}",
            f"--web.listen-address={address.netloc}",
            f"--web.external-url={settings.alertmanager.url}",
            "--cluster.listen-address=",  # it is alone, and would listen on all addresses
            "--log.level=warn",
        ),
        environment={"GOMEMLIMIT": "100MiB"},
        directory=data,
        prepare=lambda: _prepare(settings, data),
        probe=lambda: answers(f"{settings.alertmanager.url}/-/ready"),
        start_seconds=60,
        memory_bytes=50_000_000,
    )


def configuration(settings: Settings) -> bytes:
    """Fill in `compose/alertmanager/alertmanager.yml`; secrets are named by their files."""
    told = settings.alertmanager
    place = _place(settings)
    return templates.render(
        CONFIGURATION / "alertmanager.yml",
        {
            "url": told.url,
            "runbooks": told.runbooks_url or PROJECT_ROOT.as_uri(),
            "group_wait": f"{told.group_wait_seconds}s",
            "group_interval": f"{told.group_interval_seconds}s",
            "email_to": told.email_to or None,
            "email_from": told.email_from or None,
            "email_smarthost": told.email_smarthost or None,
            "email_user": told.email_user,
            "email_require_tls": told.email_require_tls,
            "email_password_file": str(place / "email_password"),
            "slack_webhook_file": str(place / "slack_webhook") if told.slack_webhook.get_secret_value() else None,
            "pagerduty_url": told.pagerduty_url,
            "pagerduty_routing_key_file": (
                str(place / "pagerduty_routing_key") if told.pagerduty_routing_key.get_secret_value() else None
            ),
        },
    )


def write_configuration(settings: Settings) -> Path:
    """Write the configuration and the secrets that it names, each for its owner only; returns the file."""
    place = _place(settings)
    place.mkdir(parents=True, exist_ok=True)
    told = settings.alertmanager
    secrets = {
        "email_password": told.email_password,
        "slack_webhook": told.slack_webhook,
        "pagerduty_routing_key": told.pagerduty_routing_key,
    }
    for name, secret in secrets.items():
        private.write(place / name, secret.get_secret_value().encode())
    path = place / "alertmanager.yml"
    private.write(path, configuration(settings))
    return path


def _place(settings: Settings) -> Path:
    return settings.home / "conf" / "alertmanager"


def _prepare(settings: Settings, data: Path) -> None:
    data.mkdir(parents=True, exist_ok=True)
    write_configuration(settings)
