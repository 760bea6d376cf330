"""Exact versions of objects, on the real object store."""

import io
import secrets
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr

from lakehouse.adapters import objects
from lakehouse.adapters.objects import ObjectError, Objects, ObjectVersion
from lakehouse.errors import ServerUnavailableError, SettingsError
from lakehouse.settings import Settings

pytestmark = pytest.mark.integration


@pytest.fixture
def prefix(stack: Settings) -> Iterator[str]:
    name = f"test_{secrets.token_hex(4)}_"
    yield name
    Objects(stack.s3).delete_all(stack.s3.file_drop_bucket, name)


@pytest.fixture
def store(stack: Settings) -> Objects:
    return Objects(stack.s3)


def test_a_version_stays_what_it_was_when_the_next_one_comes(stack: Settings, store: Objects, prefix: str) -> None:
    bucket, key = stack.s3.file_drop_bucket, f"{prefix}a"
    first = store.put(bucket, key, b"first", "1")
    second = store.put(bucket, key, b"the second", "2")
    assert first.version.version_id != second.version.version_id
    assert store.open(first.version, 5).read() == b"first"
    assert store.newest(bucket, key) == second
    assert store.look(ObjectVersion(bucket, key, first.version.version_id, None)) == first
    assert (first.size_bytes, first.sha256, second.size_bytes, second.sha256) == (5, "1", 10, "2")
    assert first.modified_at <= second.modified_at


def test_what_is_not_there_or_is_another_one_is_told_apart(stack: Settings, store: Objects, prefix: str) -> None:
    bucket, key = stack.s3.file_drop_bucket, f"{prefix}a"
    there = store.put(bucket, key, b"first", "1").version
    store.put(bucket, key, b"second", "2")
    by_etag = replace(there, version_id=None)
    troubles: dict[str, str] = {}
    for name, version in {
        "no such key": replace(there, key=f"{prefix}b"),
        "no such version": replace(there, version_id="b8dc8b5e-0000-4000-8000-000000000000"),
        "no such id": replace(there, version_id="no version"),
        "impossible name": replace(there, key=f"{prefix}/../../a", version_id=None),
        "no such bucket": replace(there, bucket="no-such-bucket"),
        "overwritten": by_etag,
        "another etag": replace(there, etag="0" * 32),
    }.items():
        with pytest.raises(ObjectError) as caught:
            store.look(version)
        troubles[name] = caught.value.trouble
        with pytest.raises(ObjectError):
            store.read(version, 0, 5)
    assert troubles.pop("no such bucket") in {"missing", "denied"}
    assert set(troubles) == {
        "no such key",
        "no such version",
        "no such id",
        "impossible name",
        "overwritten",
        "another etag",
    }
    assert {name for name, trouble in troubles.items() if trouble == "changed"} == {"overwritten", "another etag"}
    assert store.newest(bucket, f"{prefix}b") is None


def test_a_version_is_read_in_ranges_from_front_to_back_and_anywhere(
    stack: Settings, store: Objects, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "RANGE_BYTES", 1000)
    content = bytes(n % 251 for n in range(10_500))
    version = store.put(stack.s3.file_drop_bucket, f"{prefix}a", content, "1").version
    stream = store.open(version, len(content))
    assert stream.read() == content
    assert stream.read(1) == b""
    stream.seek(-10, io.SEEK_END)
    assert (stream.tell(), stream.read()) == (10_490, content[-10:])
    stream.seek(5000)
    assert stream.read(3) == content[5000:5003]
    stream.seek(2, io.SEEK_CUR)
    assert io.BufferedReader(stream).read(2000) == content[5005:7005]


def test_an_empty_object_has_no_bytes(stack: Settings, store: Objects, prefix: str) -> None:
    state = store.put(stack.s3.file_drop_bucket, f"{prefix}a", b"", "1")
    assert (state.size_bytes, store.open(state.version, 0).read()) == (0, b"")


def test_the_objects_of_a_bucket_are_counted_with_their_bytes(stack: Settings, store: Objects, prefix: str) -> None:
    before = store.total(stack.s3.file_drop_bucket)
    store.put(stack.s3.file_drop_bucket, f"{prefix}a", b"first", "1")
    store.put(stack.s3.file_drop_bucket, f"{prefix}b", b"second", "2")
    after = store.total(stack.s3.file_drop_bucket)
    assert (after.objects - before.objects, after.size_bytes - before.size_bytes) == (2, 11)


def test_a_store_that_does_not_answer_passes_and_one_that_does_not_know_us_does_not(
    stack: Settings, store: Objects, prefix: str
) -> None:
    version = store.put(stack.s3.file_drop_bucket, f"{prefix}a", b"first", "1").version
    away = Objects(stack.s3.model_copy(update={"endpoint": "http://127.0.0.1:9"}))
    with pytest.raises(ServerUnavailableError, match="did not answer"):
        away.look(version)
    stranger = Objects(stack.s3.model_copy(update={"secret_key": SecretStr("wrong")}))
    for ask in (lambda: stranger.look(version), lambda: stranger.read(version, 0, 5)):
        with pytest.raises(SettingsError, match="refuses the key"):
            ask()
    bucket = stack.s3.file_drop_bucket
    assert [objects.answers(bucket) for objects in (store, stranger, away)] == [True, True, False]


def test_a_wrong_clock_is_told_and_no_object_is_blamed(
    stack: Settings, store: Objects, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = stack.s3.file_drop_bucket
    version = store.put(bucket, f"{prefix}a", b"first", "1").version
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: datetime.now(UTC) - timedelta(hours=1))
    for ask in (lambda: store.look(version), lambda: store.read(version, 0, 5)):
        with pytest.raises(SettingsError, match="clock"):
            ask()
    monkeypatch.undo()
    assert store.look(version).size_bytes == 5
