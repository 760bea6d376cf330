"""Keys and tokens by the command line: shown once, private, and gone at once."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lakehouse import callers
from lakehouse.cli.main import app
from lakehouse.errors import TerminalError

SECRET = "a secret that nobody else has or knows"


@pytest.fixture(autouse=True)
def _own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LAKEHOUSE_HOME", str(tmp_path))
    monkeypatch.setenv("LAKEHOUSE_API__JWT_SECRET", SECRET)


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["api", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_key_is_printed_once_and_kept_as_its_hash_in_a_private_file(tmp_path: Path) -> None:
    key = run("keys", "add", "nightly", "--role", "operator", "--dag", "transform", "--dag", "api-load").strip()
    path = tmp_path / "api-callers.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert key not in path.read_text()
    caller = callers.read(path).named("nightly")
    assert (caller.role, caller.dags) == ("operator", ("transform", "api-load"))
    assert callers.read(path).with_key(key, datetime.now(UTC)) == caller
    listed = json.loads(run("keys", "list", "--output", "json"))["callers"]
    assert [(one["name"], "key_sha256" in one) for one in listed] == [("nightly", False)]
    assert "nightly" in run("keys", "list")


def test_without_more_a_caller_is_a_viewer_of_every_dag(tmp_path: Path) -> None:
    answer = json.loads(run("keys", "add", "ann", "--output", "json"))
    assert answer.keys() == {"name", "key", "expires_at"}
    caller = callers.read(tmp_path / "api-callers.json").named("ann")
    assert (caller.role, caller.dags) == ("viewer", ("*",))


def test_a_token_stands_for_a_caller_that_is_there(tmp_path: Path) -> None:
    run("keys", "add", "ann")
    signed = run("token", "ann", "--minutes", "5").strip()
    known = callers.read(tmp_path / "api-callers.json")
    assert known.with_token(signed, SECRET, datetime.now(UTC)) == known.named("ann")
    run("keys", "remove", "ann")
    with pytest.raises(TerminalError, match="no caller 'ann'; the file has nobody"):
        run("token", "ann")
