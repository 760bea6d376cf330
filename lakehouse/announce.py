"""Upload files to the bucket of announced files and announce them on Kafka; on request as one should not.

What is in the bucket already with the same content is not uploaded again, so a call that is repeated announces the same
versions, which changes nothing.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import Final

from lakehouse.adapters import kafka
from lakehouse.adapters.kafka import Message
from lakehouse.adapters.objects import Objects, ObjectVersion
from lakehouse.errors import SettingsError
from lakehouse.file_contract import DATASETS, FORMATS, TOPIC_PARTITIONS, Format
from lakehouse.settings import Settings

_CHUNK_BYTES: Final = 1 << 20
_NOWHERE: Final = ObjectVersion("", "", None, "none")
_find_date: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII).findall


class Misbehaviour(StrEnum):
    """What may go wrong between who writes a file and who reads it."""

    TWICE = "twice"  # announced two times
    MISSING = "missing"  # announced and never uploaded
    CHECKSUM = "checksum"  # announced with the SHA-256 of something else
    BROKEN = "broken"  # uploaded with an end that nobody can read


@dataclass(frozen=True, slots=True)
class Announced:
    """What became of one file.

    Attributes:
        version: as the ledger names it.
        uploaded: whether it had to be uploaded.
        notifications: how many messages were sent and confirmed.
    """

    file: str
    key: str
    version: str
    uploaded: bool
    notifications: int


def announce(
    settings: Settings,
    files: Sequence[Path],
    dataset: str,
    event_date: date | None = None,
    misbehaviour: Misbehaviour | None = None,
) -> list[Announced]:
    """Upload each file unless it is there, and send a notification of it to the topic, which is created when missing.

    Args:
        settings: of the environment.
        files: what to announce; the suffix says the format.
        dataset: what the lines are.
        event_date: UTC date of the lines; None takes the one date in each file's name.
        misbehaviour: what to do wrong with each of them.

    Raises:
        SettingsError: a file, its name or the dataset does not fit; nothing was uploaded.
        ServerUnavailableError: a server did not answer; a repeated call announces what is left.
    """
    if dataset not in DATASETS:
        raise SettingsError(f"there is no dataset {dataset}: it is one of {', '.join(DATASETS)}")
    planned: list[tuple[Path, Format, date]] = [(file, _format(file), event_date or _date(file)) for file in files]
    for file in files:
        if not file.is_file() and misbehaviour is not Misbehaviour.MISSING:
            raise SettingsError(f"there is no file {file}")
    topic, objects = settings.file_notifications_topic, Objects(settings.s3)
    kafka.create_topic(settings, topic, TOPIC_PARTITIONS)
    done: list[Announced] = []
    for file, form, day in planned:
        key = f"{settings.prefix}{dataset}/{day.isoformat()}/{file.name}"
        content: bytes | Path = file
        if misbehaviour is Misbehaviour.BROKEN:
            content = broken(file.read_bytes(), form)
        elif misbehaviour is Misbehaviour.MISSING:
            content = b""
        size_bytes, sha256 = _measure(content)
        version, uploaded = _NOWHERE, False
        if misbehaviour is not Misbehaviour.MISSING:
            version, uploaded = _store(objects, settings.s3.file_drop_bucket, key, content, sha256)
        notification = {
            "bucket": settings.s3.file_drop_bucket,
            "key": key,
            "version_id": version.version_id,
            "etag": version.etag,
            "size_bytes": size_bytes,
            "sha256": sha256[::-1] if misbehaviour is Misbehaviour.CHECKSUM else sha256,
            "format": form,
            "dataset": dataset,
            "event_date": day.isoformat(),
        }
        # Messages of one key keep their order, so that of two versions the later one is announced later.
        message = Message(f"{settings.s3.file_drop_bucket}/{key}".encode(), json.dumps(notification).encode())
        sent = kafka.send(settings, topic, [message] * (2 if misbehaviour is Misbehaviour.TWICE else 1))
        done.append(Announced(str(file), key, version.version_id or version.etag or "", uploaded, sent))
    return done


def _format(file: Path) -> Format:
    for form in FORMATS:
        if file.suffix == f".{form}":
            return form
    raise SettingsError(f"{file} is none of {', '.join(f'.{form}' for form in FORMATS)}")


def _date(file: Path) -> date:
    found = _find_date(file.name)
    try:
        (text,) = found
        return date.fromisoformat(text)
    except ValueError:
        raise SettingsError(f"the name {file.name} does not hold one date: say which with --date") from None


def _store(objects: Objects, bucket: str, key: str, content: bytes | Path, sha256: str) -> tuple[ObjectVersion, bool]:
    there = objects.newest(bucket, key)
    if there and there.sha256 == sha256:
        return there.version, False
    return objects.put(bucket, key, content, sha256).version, True


def broken(content: bytes, form: Format) -> bytes:
    """A file that starts well and ends with what is no line."""
    return content[:-8] if form == "parquet" else content + b"\xff no line of that kind\n"


def _measure(content: bytes | Path) -> tuple[int, str]:
    """Size and SHA-256."""
    if isinstance(content, bytes):
        return len(content), hashlib.sha256(content).hexdigest()
    digest, size_bytes = hashlib.sha256(), 0
    with content.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
            size_bytes += len(chunk)
    return size_bytes, digest.hexdigest()
