"""Send user actions to Kafka: from a file, once if asked so, or generated."""

import base64
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Final

import msgspec

from lakehouse.adapters import kafka
from lakehouse.adapters.kafka import Message
from lakehouse.errors import SettingsError, TerminalError
from lakehouse.generator import generate
from lakehouse.settings import Settings

BATCH_HEADER: Final = "lakehouse-batch"
LINE_HEADER: Final = "lakehouse-batch-line"
SIDECAR_SUFFIX: Final = ".sidecar.jsonl"

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Produced:
    """What one call sent.

    Attributes:
        batch: SHA-256 of the messages of a file, hexadecimal; None for generated ones.
        messages: how many the file or the order holds.
        sent: how many of them were sent now, each confirmed.
        already_there: how many of them the topic held before.
    """

    topic: str
    batch: str | None
    messages: int
    sent: int
    already_there: int


class SidecarLine(msgspec.Struct, forbid_unknown_fields=True):
    """One message that a line of text can't hold.

    Attributes:
        value_base64: the bytes; null for a message without a value.
        pad_to_bytes: fill up with spaces to this length.
        note: for the reader of the file.
    """

    value_base64: str | None
    pad_to_bytes: int = 0
    note: str = ""


class _User(msgspec.Struct):
    id: str


class _Keyed(msgspec.Struct):
    user_identifiers: _User


_read_keyed = msgspec.json.Decoder(_Keyed).decode
_read_sidecar_line = msgspec.json.Decoder(SidecarLine).decode


def read_messages(path: Path) -> Iterator[bytes | None]:
    """Read the values of the messages that a file holds.

    Each line is one message as it is; lines of nothing but whitespace are no messages. `NAME.sidecar.jsonl` beside
    `NAME.jsonl` holds messages that a line of text can't: see `SidecarLine`. They come last.

    Raises:
        SettingsError: the file is not there.
        TerminalError: a line of the sidecar is not what it should be.
    """
    try:
        with path.open("rb") as lines:
            for line in lines:
                if line.strip():
                    yield line.removesuffix(b"\n")
    except OSError as error:
        raise SettingsError(f"can't read {path}: {error.strerror}; name a file with one message a line") from error
    sidecar = path.with_suffix(SIDECAR_SUFFIX)
    if not sidecar.exists():
        return
    for number, line in enumerate(sidecar.read_bytes().splitlines(), start=1):
        try:
            record = _read_sidecar_line(line)
            value = None if record.value_base64 is None else base64.b64decode(record.value_base64, validate=True)
        except (msgspec.DecodeError, ValueError) as error:
            raise TerminalError(f"{sidecar}, line {number}: {error}; see data/README.md for the format") from error
        yield None if value is None else value.ljust(record.pad_to_bytes)


def produce_file(
    settings: Settings,
    path: Path,
    *,
    once: bool = False,
    rate: float | None = None,
    progress: Progress | None = None,
) -> Produced:
    """Send the messages of a file to the topic of user actions, which is created when missing.

    Every message carries the SHA-256 of all of them and its own number in headers. With `once`, the topic is read
    first and only the numbers it lacks are sent, so a run that was killed halfway is completed, not repeated.

    Args:
        settings: where Kafka is.
        path: see `read_messages`.
        once: send only what the topic lacks.
        rate: messages per second at most.
        progress: called with the number confirmed so far.

    Raises:
        ServerUnavailableError: Kafka did not confirm everything.
        TerminalError: with `once`, retention has removed messages of the topic, so nobody can tell what is missing.
    """
    batch, messages = _batch(path)
    topic = settings.user_actions_topic
    kafka.create_topic(settings, topic, settings.kafka.user_actions_partitions)
    there = _lines_there(settings, topic, batch) if once else set[int]()
    if once and len(there) < messages:
        _refuse_a_topic_that_forgot(settings, topic, path)
    missing = (
        Message(_key(value), value, ((BATCH_HEADER, batch.encode()), (LINE_HEADER, str(number).encode())))
        for number, value in enumerate(read_messages(path))
        if number not in there
    )
    sent = kafka.send(settings, topic, missing, rate=rate, progress=progress) if len(there) < messages else 0
    return Produced(topic=topic, batch=batch, messages=messages, sent=sent, already_there=len(there))


def produce_generated(
    settings: Settings,
    *,
    count: int,
    day: date,
    seed: int = 1,
    rate: float | None = None,
    bad_ratio: float = 0.0,
    late_ratio: float = 0.0,
    stamped: bool = False,
    progress: Progress | None = None,
) -> Produced:
    """Send generated user actions of one day to the topic of user actions, which is created when missing.

    Arguments as in `lakehouse.generator.generate` and `produce_file`. A message that is `stamped` carries the time at
    which a producer of that day would have sent it; only a topic that takes its producers' times keeps that.

    Raises:
        ServerUnavailableError: Kafka did not confirm everything.
    """
    topic = settings.user_actions_topic
    kafka.create_topic(settings, topic, settings.kafka.user_actions_partitions)
    generated = generate(seed=seed, day=day, count=count, bad_ratio=bad_ratio, late_ratio=late_ratio)
    messages = (
        Message(m.key, m.value, timestamp_millis=int(m.sent_at.timestamp() * 1000) if stamped else 0) for m in generated
    )
    sent = kafka.send(settings, topic, messages, rate=rate, progress=progress)
    return Produced(topic=topic, batch=None, messages=count, sent=sent, already_there=0)


def _batch(path: Path) -> tuple[str, int]:
    digest = hashlib.sha256()
    messages = 0
    for value in read_messages(path):
        # The length in front keeps "ab", "c" apart from "a", "bc", and null apart from empty.
        digest.update(b"null;" if value is None else b"%d;" % len(value))
        digest.update(value or b"")
        messages += 1
    return digest.hexdigest(), messages


def _lines_there(settings: Settings, topic: str, batch: str) -> set[int]:
    wanted = (BATCH_HEADER, batch.encode())
    return {
        int(value)
        for received in kafka.read(settings, topic)
        if wanted in received.headers
        for name, value in received.headers
        if name == LINE_HEADER
    }


def _refuse_a_topic_that_forgot(settings: Settings, topic: str, path: Path) -> None:
    forgotten = {partition: start for partition, (start, _) in kafka.offsets(settings, topic).items() if start > 0}
    if forgotten:
        raise TerminalError(
            f"can't tell whether {path.name} was sent to {topic} before: Kafka's retention has removed the offsets "
            f"below {forgotten} (by partition); look in the table, then send without --once what is missing"
        )


def _key(value: bytes | None) -> bytes | None:
    """The user's id, so that one user's actions stay in order; None when the message names none."""
    try:
        return _read_keyed(value or b"").user_identifiers.id.encode()
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
