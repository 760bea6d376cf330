"""Where settings come from, which one wins, and that no message shows a secret."""

import os
from pathlib import Path

import pytest

from lakehouse.errors import SettingsError
from lakehouse.settings import PROJECT_ROOT, STANDARD_OUTPUT, Settings, get_settings, load_settings


@pytest.fixture(autouse=True)
def _no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("LAKEHOUSE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LAKEHOUSE_HOME", str(tmp_path))


def test_a_nested_setting_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEHOUSE_KAFKA__BOOTSTRAP_SERVERS", "broker-1:9092,broker-2:9092")
    assert load_settings().kafka.bootstrap_servers == "broker-1:9092,broker-2:9092"


def test_secrets_come_from_the_file_in_the_home(tmp_path: Path) -> None:
    (tmp_path / "credentials.env").write_text("LAKEHOUSE_S3__SECRET_KEY=from-the-file\n")
    assert load_settings().s3.secret_key.get_secret_value() == "from-the-file"


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "credentials.env").write_text("LAKEHOUSE_S3__SECRET_KEY=from-the-file\n")
    monkeypatch.setenv("LAKEHOUSE_S3__SECRET_KEY", "from-the-environment")
    assert load_settings().s3.secret_key.get_secret_value() == "from-the-environment"


def test_one_setting_of_a_group_leaves_the_others_at_their_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEHOUSE_POSTGRES__PORT", "25432")
    postgres = load_settings().postgres
    assert (postgres.port, postgres.host, postgres.database) == (25432, "127.0.0.1", "lakehouse")


def test_every_wrong_value_is_named_and_none_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEHOUSE_POSTGRES__PORT", "hunter2")
    monkeypatch.setenv("LAKEHOUSE_INGEST__ROWS_PER_TASK", "-1")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert "postgres.port: Input should be a valid integer" in str(caught.value)
    assert "ingest.rows_per_task: Input should be greater than 0" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_group_that_is_not_set_one_by_one_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEHOUSE_KAFKA", "broker:9092")
    with pytest.raises(SettingsError, match="set one by one, as LAKEHOUSE_KAFKA__"):
        load_settings()


@pytest.mark.parametrize("prefix", ["", "ci_", "test_1a2b_"])
def test_a_prefix_stands_before_the_topic(monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    monkeypatch.setenv("LAKEHOUSE_PREFIX", prefix)
    assert load_settings().user_actions_topic == f"{prefix}user-actions"


@pytest.mark.parametrize("prefix", ["ci", "1_", "Ci_", "c-i_", "ci_\n"])
def test_a_prefix_that_would_make_bad_names_is_refused(monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    monkeypatch.setenv("LAKEHOUSE_PREFIX", prefix)
    with pytest.raises(SettingsError, match="prefix"):
        load_settings()


def test_a_relative_path_means_the_directory_the_command_runs_in(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAKEHOUSE_HOME", "state")
    monkeypatch.setenv("LAKEHOUSE_CACHE", "~/servers")
    monkeypatch.setenv("HOME", str(tmp_path / "person"))
    settings = load_settings()
    assert settings.home == tmp_path / "state"
    assert settings.cache == tmp_path / "person" / "servers"
    assert settings.credentials_file == tmp_path / "state" / "credentials.env"


def test_a_relative_path_of_a_server_means_the_directory_the_command_runs_in(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAKEHOUSE_API__CALLERS_FILE", "callers.json")
    monkeypatch.setenv("LAKEHOUSE_API__AUDIT_FILE", "audit.jsonl")
    monkeypatch.setenv("LAKEHOUSE_PROMETHEUS__RULES_DIRECTORY", "rules")
    settings = load_settings()
    assert settings.api_callers_file == tmp_path / "callers.json"
    assert settings.api_audit_file == tmp_path / "audit.jsonl"
    assert settings.prometheus.rules_directory == tmp_path / "rules"
    monkeypatch.setenv("LAKEHOUSE_API__AUDIT_FILE", "-")
    assert load_settings().api_audit_file == STANDARD_OUTPUT


def test_the_home_is_in_the_work_tree_and_the_cache_outside_unless_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("LAKEHOUSE_HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = Settings()
    assert settings.home == PROJECT_ROOT / ".lakehouse"
    assert settings.cache == tmp_path / ".cache" / "lakehouse"


def test_the_certificates_are_those_of_the_other_clients(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    assert load_settings().ca_bundle == tmp_path / "ca.pem"
    monkeypatch.setenv("SSL_CERT_FILE", "")
    assert load_settings().ca_bundle is None


def test_no_secret_shows_when_settings_are_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEHOUSE_POSTGRES__PASSWORD", "hunter2")
    settings = load_settings()
    assert "hunter2" not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"


def test_one_run_reads_the_settings_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = get_settings()
    monkeypatch.setenv("LAKEHOUSE_TRINO__PORT", "1")
    assert get_settings() is first


def test_each_user_of_trino_has_a_password_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEHOUSE_TRINO__ANALYST_PASSWORD", "for the analyst")
    monkeypatch.setenv("LAKEHOUSE_TRINO__ADMIN_PASSWORD", "for the admin")
    settings = load_settings()
    logins = [settings.trino_as(role) for role in ("analyst", "admin")]
    assert [(login.user, login.password and login.password.get_secret_value()) for login in logins] == [
        ("analyst", "for the analyst"),
        ("admin", "for the admin"),
    ]
    assert "for the" not in repr(logins)
    assert logins[0].url == "https://127.0.0.1:18080"


def test_people_open_airflow_where_its_public_address_is_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEHOUSE_AIRFLOW__URL", "http://airflow.data.svc:8080/")
    assert load_settings().airflow.pages_url == "http://airflow.data.svc:8080"
    monkeypatch.setenv("LAKEHOUSE_AIRFLOW__PUBLIC_URL", "https://airflow.example.com/data/")
    assert load_settings().airflow.pages_url == "https://airflow.example.com/data"


def test_without_tls_no_password_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEHOUSE_TRINO__TLS", "false")
    monkeypatch.setenv("LAKEHOUSE_TRINO__HOST", "trino")
    monkeypatch.setenv("LAKEHOUSE_TRINO__PORT", "8080")
    monkeypatch.setenv("LAKEHOUSE_TRINO__ANALYST_PASSWORD", "secret")
    login = load_settings().trino_as("analyst")
    assert (login.url, login.user, login.password) == ("http://trino:8080", "analyst", None)


def test_trino_is_trusted_by_the_authority_of_this_machine_unless_another_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert load_settings().trino_as("admin").ca_file is None
    (tmp_path / "tls").mkdir()
    (tmp_path / "tls" / "ca.pem").touch()
    assert load_settings().trino_as("admin").ca_file == tmp_path / "tls" / "ca.pem"
    monkeypatch.setenv("LAKEHOUSE_TRINO__CA_FILE", "/company/ca.pem")
    assert load_settings().trino_as("admin").ca_file == Path("/company/ca.pem")
