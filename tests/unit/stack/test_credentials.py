"""The file with the generated secrets: private, made once, never replaced under data that needs it."""

from pathlib import Path

import pytest

from lakehouse.errors import StackError
from lakehouse.settings import Settings
from lakehouse.stack import credentials


def secrets_in(path: Path) -> dict[str, str]:
    pairs = (line.partition("=") for line in path.read_text().splitlines())
    return {name: value for name, _, value in pairs}


def test_only_the_owner_can_read_the_generated_file(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    assert credentials.ensure(settings) is True
    assert settings.credentials_file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in settings.home.iterdir()] == ["credentials.env"]


def test_a_second_start_keeps_every_secret(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    credentials.ensure(settings)
    first = secrets_in(settings.credentials_file)
    assert credentials.ensure(settings) is False
    assert secrets_in(settings.credentials_file) == first


def test_no_two_secrets_and_no_two_stacks_are_alike(tmp_path: Path) -> None:
    values = list[str]()
    for name in ("one", "other"):
        settings = Settings(home=tmp_path / name)
        credentials.ensure(settings)
        values += secrets_in(settings.credentials_file).values()
    assert len(values) == len(set(values)) == 30
    assert min(map(len, values)) >= 32


def test_the_settings_read_what_was_generated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    credentials.ensure(Settings(home=tmp_path))
    monkeypatch.delenv("LAKEHOUSE_S3__SECRET_KEY", raising=False)
    settings = Settings(home=tmp_path, _env_file=tmp_path / "credentials.env")
    written = secrets_in(tmp_path / "credentials.env")
    assert settings.s3.secret_key.get_secret_value() == written["LAKEHOUSE_S3__SECRET_KEY"]
    assert "" not in {secret.get_secret_value() for _, secret in settings.stack}


def test_a_file_that_others_can_read_is_made_private_again(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    credentials.ensure(settings)
    settings.credentials_file.chmod(0o644)
    credentials.ensure(settings)
    assert settings.credentials_file.stat().st_mode & 0o777 == 0o600


def test_a_secret_of_a_newer_version_is_added_to_the_present_ones(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    credentials.ensure(settings)
    whole = secrets_in(settings.credentials_file)
    older = [line for line in settings.credentials_file.read_text().splitlines() if "TRINO" not in line]
    settings.credentials_file.write_text("\n".join(older))  # an editor may have left out the last line's end
    (tmp_path / "data").mkdir()

    assert credentials.ensure(settings) is True
    now = secrets_in(settings.credentials_file)
    new = {name for name in now if now[name] != whole[name]}
    assert new == {
        "LAKEHOUSE_STACK__TRINO_SHARED_SECRET",
        "LAKEHOUSE_TRINO__ADMIN_PASSWORD",
        "LAKEHOUSE_TRINO__ANALYST_PASSWORD",
        "LAKEHOUSE_TRINO__INGEST_PASSWORD",
        "LAKEHOUSE_TRINO__TRANSFORM_PASSWORD",
    }
    assert now.keys() == whole.keys()


@pytest.mark.parametrize("left", [None, "", "LAKEHOUSE_S3__SECRET_KEY=x\n"])
def test_a_lost_file_is_not_replaced_while_data_needs_it(tmp_path: Path, left: str | None) -> None:
    settings = Settings(home=tmp_path)
    (tmp_path / "data" / "postgres").mkdir(parents=True)
    if left is not None:
        settings.credentials_file.write_text(left)
    with pytest.raises(StackError, match="put that file back, or start afresh with `make clean`"):
        credentials.ensure(settings)
    assert (settings.credentials_file.read_text() if left is not None else None) == left
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["postgres"]
