"""Kafka: topics, offsets, confirmed sends and bounded reads.

Every fault of the client leaves here as one of `lakehouse.errors`.
"""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownLambdaType=false
# (the client's admin calls have only half their types)

import functools
import logging
import math
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import tenacity
from confluent_kafka import (
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka import Message as ClientMessage
from confluent_kafka.admin import AdminClient, OffsetSpec  # pyright: ignore[reportPrivateImportUsage]
from confluent_kafka.cimpl import NewTopic

from lakehouse.errors import DataLossError, LakehouseError, NotMadeError, ServerUnavailableError, TerminalError
from lakehouse.plans import OffsetRange
from lakehouse.settings import KafkaSettings, Settings
from lakehouse.tables import HEADERS, MICROS

REQUEST_SECONDS: Final = 15.0
DELIVERY_SECONDS: Final = 60.0
PING_SECONDS: Final = 3.0
MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
PROGRESS_SECONDS: Final = 0.2
POLL_SECONDS: Final = 0.2
ROWS_AT_ONCE: Final = 20_000

TOPIC_CONFIG: Final[Mapping[str, str]] = {
    # The broker's clock: the plausible range of event times hangs on it, and retention would drop a message that
    # carries its event's old date as soon as it arrives.
    "message.timestamp.type": "LogAppendTime",
}

Headers = tuple[tuple[str, bytes], ...]

_PASSING_FAULTS: Final = frozenset(
    {
        KafkaError._ALL_BROKERS_DOWN,  # noqa: SLF001 - the client's public codes of local faults start so
        KafkaError._MSG_TIMED_OUT,  # noqa: SLF001
        KafkaError._RESOLVE,  # noqa: SLF001
        KafkaError._TIMED_OUT,  # noqa: SLF001
        KafkaError._TIMED_OUT_QUEUE,  # noqa: SLF001
        KafkaError._TRANSPORT,  # noqa: SLF001
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.NOT_CONTROLLER,
        KafkaError.NOT_ENOUGH_REPLICAS,
        KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.REPLICA_NOT_AVAILABLE,
        KafkaError.REQUEST_TIMED_OUT,
    }
)
_NO_LEADER_YET: Final = frozenset({KafkaError.LEADER_NOT_AVAILABLE, KafkaError.NOT_LEADER_FOR_PARTITION})
_NO_SUCH_TOPIC: Final = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001
        KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001
    }
)

_client_log = logging.getLogger("lakehouse.kafka.client")
# What matters comes as an error; the client's own warnings show up where a program sets up logging.
_client_log.addHandler(logging.NullHandler())


class Message(NamedTuple):
    """What goes into a topic; `timestamp_millis` counts from 1970 in UTC, 0 is the moment of sending."""

    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    timestamp_millis: int = 0


class Received(NamedTuple):
    """What came out of a topic; key: partition, offset."""

    partition: int
    offset: int
    timestamp_millis: int
    key: bytes | None
    value: bytes | None
    headers: Headers


def ping(settings: Settings) -> None:
    """Ask for the brokers once, with little patience.

    Raises:
        ServerUnavailableError: none answered.
        TerminalError: Kafka refused.
    """
    try:
        _admin(settings).list_topics(timeout=PING_SECONDS)
    except KafkaException as error:
        raise _translated(error, settings.kafka, "name its brokers") from error


def create_topic(settings: Settings, topic: str, partitions: int, config: Mapping[str, str] = TOPIC_CONFIG) -> bool:
    """Create a topic unless it exists; an existing one stays as it is.

    Returns:
        Whether it was created.

    Raises:
        ServerUnavailableError: Kafka did not answer in time.
        TerminalError: Kafka refused.
    """
    request = NewTopic(topic, num_partitions=partitions, config=dict(config))
    created = _done(
        settings,
        f"create topic {topic}",
        lambda admin: admin.create_topics([request], request_timeout=REQUEST_SECONDS),
        unless={KafkaError.TOPIC_ALREADY_EXISTS},
    )
    # Kafka confirms a topic before its partitions have leaders that answer.
    deadline = time.monotonic() + REQUEST_SECONDS
    while True:
        try:
            offsets(settings, topic)
        except LakehouseError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return created


def delete_topic(settings: Settings, topic: str) -> bool:
    """Delete a topic and all it holds.

    Returns:
        Whether there was one.

    Raises:
        ServerUnavailableError: Kafka did not answer in time.
        TerminalError: Kafka refused.
    """
    return _done(
        settings,
        f"delete topic {topic}",
        lambda admin: admin.delete_topics([topic], request_timeout=REQUEST_SECONDS),
        unless=_NO_SUCH_TOPIC,
    )


def delete_records(settings: Settings, topic: str) -> None:
    """Delete all messages a topic holds, as its retention would; offsets go on from where they were.

    Raises:
        ServerUnavailableError: Kafka did not answer in time.
        TerminalError: there is no such topic, or Kafka refused.
    """
    ends = [TopicPartition(topic, partition, end) for partition, (_, end) in offsets(settings, topic).items()]
    _answers(
        settings,
        f"delete the messages of {topic}",
        lambda admin: admin.delete_records(ends, request_timeout=REQUEST_SECONDS),
    )


def topic_id(settings: Settings, topic: str) -> str:
    """Read the id that Kafka gave a topic when it was created; one made anew under the same name has another.

    Raises:
        ServerUnavailableError: Kafka did not answer in time.
        TerminalError: there is no such topic, or Kafka refused.
    """
    found = _answers(
        settings,
        f"read the id of {topic}",
        lambda admin: admin.describe_topics(TopicCollection([topic]), request_timeout=REQUEST_SECONDS),
    )
    return str(found[topic].topic_id)


def offsets(settings: Settings, topic: str) -> dict[int, tuple[int, int]]:
    """Read the offsets that a topic holds.

    Returns:
        For each partition its start offset (inclusive) and end offset (exclusive); the end is where the first
        transaction that is still open begins, if there is one.

    Raises:
        ServerUnavailableError: Kafka did not answer in time.
        TerminalError: there is no such topic, or Kafka refused.
    """
    partitions = [TopicPartition(topic, partition) for partition in _partitions(settings, topic)]
    bounds = list[dict[int, int]]()
    for spec in (OffsetSpec.earliest(), OffsetSpec.latest()):
        request: dict[TopicPartition, Any] = dict.fromkeys(partitions, spec)
        found = _answers(
            settings,
            f"read the offsets of {topic}",
            lambda admin, request=request: admin.list_offsets(
                request, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=REQUEST_SECONDS
            ),
        )
        bounds.append({topic_partition.partition: result.offset for topic_partition, result in found.items()})
    start_offsets, end_offsets = bounds
    return {partition: (start_offsets[partition], end_offsets[partition]) for partition in sorted(start_offsets)}


def offsets_at(settings: Settings, topic: str, moment: datetime) -> dict[int, int]:
    """Find the first offset of each partition whose message is stamped with this moment or later.

    Returns:
        The offset per partition; without those that hold no such message.

    Raises:
        ServerUnavailableError: Kafka did not answer in time.
        TerminalError: there is no such topic, or Kafka refused.
    """
    spec = OffsetSpec.for_timestamp(math.ceil(moment.timestamp() * 1000))
    request: dict[TopicPartition, Any] = {TopicPartition(topic, p): spec for p in _partitions(settings, topic)}
    found = _answers(
        settings,
        f"read the offsets of {topic} at {moment:%Y-%m-%dT%H:%M:%SZ}",
        lambda admin: admin.list_offsets(
            request, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=REQUEST_SECONDS
        ),
    )
    reached = {topic_partition.partition: result.offset for topic_partition, result in found.items()}
    return {partition: offset for partition, offset in sorted(reached.items()) if offset >= 0}


def stamped_from(settings: Settings, topic: str, offsets: Mapping[int, int]) -> dict[int, datetime]:
    """Read Kafka's time of the first message at or past an offset of each partition.

    Returns:
        The time by partition, UTC; without those that hold no such message.

    Raises:
        ServerUnavailableError: Kafka did not answer in time.
        TerminalError: there is no such topic, or Kafka refused.
    """
    found: dict[int, datetime] = {}
    left = dict(offsets)
    doing = f"read when messages of {topic} came"
    watching = {
        "group.id": "lakehouse-exporter",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",
        # One message of each is looked at.
        "queued.min.messages": 1,
        "fetch.message.max.bytes": 1024,
    }
    consumer = Consumer(_client(settings.kafka) | watching, logger=_client_log)
    try:
        consumer.assign([TopicPartition(topic, partition, offset) for partition, offset in left.items()])
        deadline = time.monotonic() + REQUEST_SECONDS
        while left and time.monotonic() < deadline:
            for message in consumer.consume(len(left), timeout=POLL_SECONDS):
                partition = message.partition() or 0
                if message.error() is not None:
                    _see_end(message, {}, settings.kafka, doing)
                elif partition in left:
                    found[partition] = datetime.fromtimestamp(message.timestamp()[1] / 1000, UTC)
                if left.pop(partition, None) is not None:
                    consumer.pause([TopicPartition(topic, partition)])
    except KafkaException as error:
        raise _translated(error, settings.kafka, doing) from error
    finally:
        consumer.close()
    if left:
        raise _unanswered(settings.kafka, doing)
    return found


def committed(settings: Settings, topic: str, group: str) -> dict[int, int]:
    """Read the next offset that a consumer group has committed, by partition; without those it never committed.

    Raises:
        ServerUnavailableError: Kafka did not answer in time.
        TerminalError: there is no such topic, or Kafka refused.
    """
    doing = f"read the offsets of group {group} in {topic}"
    partitions = [TopicPartition(topic, partition) for partition in _partitions(settings, topic)]
    with _member(settings, group) as consumer:
        try:
            found = consumer.committed(partitions, timeout=REQUEST_SECONDS)
        except KafkaException as error:
            raise _translated(error, settings.kafka, doing) from error
    return {one.partition: one.offset for one in found if one.offset >= 0}


def commit(settings: Settings, topic: str, group: str, following: Mapping[int, int]) -> None:
    """Commit the next offset of each partition for a consumer group that has no members but us.

    Raises:
        ServerUnavailableError: Kafka did not answer in time.
        TerminalError: there is no such topic, or Kafka refused.
    """
    offsets = [TopicPartition(topic, partition, offset) for partition, offset in following.items()]
    with _member(settings, group) as consumer:
        try:
            consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            raise _translated(error, settings.kafka, f"commit offsets of group {group} in {topic}") from error


@contextmanager
def _member(settings: Settings, group: str) -> Generator[Consumer]:
    consumer = Consumer(_client(settings.kafka) | {"group.id": group, "enable.auto.commit": False}, logger=_client_log)
    try:
        yield consumer
    finally:
        consumer.close()


def send(
    settings: Settings,
    topic: str,
    messages: Iterable[Message],
    *,
    rate: float | None = None,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Send messages and wait until Kafka has confirmed each one.

    Kafka confirms when all in-sync replicas have a message; a retry of the client can't store it twice.

    Args:
        settings: where Kafka is.
        topic: must exist.
        messages: consumed once, in order; messages of one key keep their order.
        rate: messages per second at most; None sends as fast as Kafka takes them.
        progress: called now and then, and at the end, with the number confirmed so far.

    Returns:
        How many were confirmed: all of them.

    Raises:
        ServerUnavailableError: a message was not confirmed in time; the text says how many were.
        TerminalError: there is no such topic, or Kafka refused a message; the text says how many were confirmed.
    """
    _partitions(settings, topic)
    return _Shipment(settings, topic, progress).ship(messages, rate)


def read(settings: Settings, topic: str) -> Iterator[Received]:
    """Read everything a topic holds at the moment of the call; later messages are left out.

    Joins no consumer group and commits nothing. Messages of one partition come in order of their offsets.

    Raises:
        DataLossError: retention removed messages meanwhile.
        ServerUnavailableError: Kafka stopped answering.
        TerminalError: there is no such topic, or Kafka refused.
    """
    ranges = [OffsetRange(p, start, end) for p, (start, end) in offsets(settings, topic).items() if start < end]
    for batch in read_ranges(settings.kafka, topic, ranges):
        for row in batch.to_pylist():
            headers = tuple((header["key"], header["value"]) for header in row["headers"] or ())
            millis = round(row["timestamp"].timestamp() * 1000)
            yield Received(row["partition"], row["offset"], millis, row["key"], row["value"], headers)


def read_ranges(settings: KafkaSettings, topic: str, ranges: Sequence[OffsetRange]) -> Iterator[pa.RecordBatch]:
    """Read exactly these offsets, as Arrow batches; an offset that holds no message is left out.

    Joins no consumer group and commits nothing; messages of transactions that are not committed are no messages.

    Yields:
        Columns `key` and `value` binary, `partition` int, `offset` long, `timestamp` in microseconds UTC and
        `headers`, a list of struct `key`, `value`, null without headers; at most `ROWS_AT_ONCE` rows.

    Raises:
        DataLossError: Kafka no longer has an offset.
        ServerUnavailableError: Kafka stopped answering.
        TerminalError: there is no such topic, or Kafka refused.
    """
    consumer = Consumer(
        _client(settings)
        | {
            "group.id": "lakehouse-ingest",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "isolation.level": "read_committed",
            # What is read ahead bounds the memory, and past the end of a range it is wasted.
            "queued.min.messages": 2 * ROWS_AT_ONCE,
            "queued.max.messages.kbytes": 32 * 1024,
            "fetch.queue.backoff.ms": 5,  # else a full queue stops the reading for a second
        },
        logger=_client_log,
    )
    doing = f"read {topic}"
    ends = {piece.topic_partition: piece.end_offset for piece in ranges}
    following = {piece.topic_partition: piece.start_offset for piece in ranges}
    try:
        consumer.assign([TopicPartition(topic, piece.topic_partition, piece.start_offset) for piece in ranges])
        deadline = time.monotonic() + 2 * REQUEST_SECONDS
        while following:
            rows = sum(ends[partition] - offset for partition, offset in following.items())
            # At most this long, so that huge messages don't pile up here either.
            messages: list[ClientMessage] = consumer.consume(min(rows, ROWS_AT_ONCE), timeout=POLL_SECONDS)
            if messages:
                deadline = time.monotonic() + 2 * REQUEST_SECONDS
            elif time.monotonic() > deadline:
                raise _unanswered(settings, doing)
            errors = [message for message in messages if message.error() is not None]
            for message in errors:
                _see_end(message, ends, settings, doing)
            batch = _batch([message for message in messages if message.error() is None] if errors else messages)
            partitions, offsets = batch.column("partition").to_numpy(), batch.column("offset").to_numpy()
            inside = np.zeros(batch.num_rows, np.bool_)
            for partition in list(following):
                of_partition = partitions == partition
                inside |= of_partition & (offsets < ends[partition])
                following[partition] = int(offsets[of_partition].max(initial=following[partition] - 1)) + 1
                if following[partition] >= ends[partition] or any(m.partition() == partition for m in errors):
                    del following[partition]
                    consumer.pause([TopicPartition(topic, partition)])
            if inside.any():
                yield batch if inside.all() else batch.filter(pa.array(inside))
    except KafkaException as error:
        raise _translated(error, settings, doing) from error
    finally:
        consumer.close()


def _see_end(message: ClientMessage, ends: Mapping[int, int], settings: KafkaSettings, doing: str) -> None:
    """See that what is no message says that its partition ends, and not before its range does."""
    error, partition = message.error(), message.partition() or 0
    assert error is not None
    gone = error.code() in {KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._AUTO_OFFSET_RESET}  # noqa: SLF001 - public codes
    at_end = error.code() == KafkaError._PARTITION_EOF  # noqa: SLF001
    if gone or (at_end and (message.offset() or 0) < ends.get(partition, 0)):
        raise DataLossError(f"Kafka lost offsets of partition {partition} as it was asked to {doing}: {error.str()}")
    if not at_end:
        raise _translated(KafkaException(error), settings, doing)


def _batch(messages: Sequence[ClientMessage]) -> pa.RecordBatch:
    headers: list[Any] = [message.headers() for message in messages]
    columns: dict[str, Any] = {
        "key": pa.array([message.key() for message in messages], pa.binary()),
        "value": pa.array([message.value() for message in messages], pa.binary()),
        "partition": pa.array([message.partition() for message in messages], pa.int32()),
        "offset": pa.array([message.offset() for message in messages], pa.int64()),
        "timestamp": pa.array([message.timestamp()[1] * 1000 for message in messages], pa.int64()).cast(MICROS),
        "headers": pa.array([found and list(map(_header, found)) for found in headers], HEADERS),
    }
    return pa.record_batch(columns)


def _header(header: tuple[str, bytes | None]) -> dict[str, str | bytes | None]:
    return {"key": header[0], "value": header[1]}


class _Shipment:
    """One call of `send`: counts confirmations, stops at the first failure."""

    def __init__(self, settings: Settings, topic: str, progress: Callable[[int], None] | None) -> None:
        self._settings = settings
        self._topic = topic
        self._progress = progress
        self._progress_due = 0.0
        self._confirmed = 0
        self._sent = 0
        self._failure: KafkaError | None = None
        self._producer = Producer(
            _client(settings.kafka)
            | {
                "acks": "all",
                "enable.idempotence": True,
                "compression.type": "zstd",
                "linger.ms": 20,
                "message.max.bytes": MAX_MESSAGE_BYTES,
                "delivery.timeout.ms": int(DELIVERY_SECONDS * 1000),
                "queue.buffering.max.kbytes": 128 * 1024,
            },
            logger=_client_log,
        )

    def ship(self, messages: Iterable[Message], rate: float | None) -> int:
        started = time.monotonic()
        try:
            for message in messages:
                self._produce(message)
                if rate is not None:
                    self._wait_until(started + self._sent / rate)
                elif self._sent % 500 == 0:
                    self._poll(0)
                if self._failure:
                    break
            left = self._drain()
        except KafkaException as error:
            self._drain()
            raise _translated(error, self._settings.kafka, self._account()) from error
        finally:
            # Nothing may go out after this call has answered.
            self._producer.purge()
        if self._progress:
            self._progress(self._confirmed)
        if self._failure:
            raise _translated(KafkaException(self._failure), self._settings.kafka, self._account())
        if left or self._confirmed != self._sent:
            raise _unanswered(self._settings.kafka, self._account())
        return self._confirmed

    def _produce(self, message: Message) -> None:
        while True:
            try:
                self._producer.produce(
                    self._topic,
                    value=message.value,
                    key=message.key,
                    headers=list(message.headers),
                    timestamp=message.timestamp_millis,
                    on_delivery=self._delivered,
                )
            except BufferError:
                self._poll(0.1)
                if self._failure:
                    return
            else:
                self._sent += 1
                return

    def _delivered(self, error: KafkaError | None, _: ClientMessage) -> None:
        if error is None:
            self._confirmed += 1
        elif self._failure is None:
            self._failure = error

    def _wait_until(self, moment: float) -> None:
        self._poll(0)
        while not self._failure and (left := moment - time.monotonic()) > 0:
            self._poll(min(left, 0.1))

    def _poll(self, seconds: float) -> None:
        self._producer.poll(seconds)
        now = time.monotonic()
        if self._progress and now >= self._progress_due:
            self._progress_due = now + PROGRESS_SECONDS
            self._progress(self._confirmed)

    def _drain(self) -> int:
        deadline = time.monotonic() + DELIVERY_SECONDS + 5
        while len(self._producer) and time.monotonic() < deadline:
            self._producer.flush(PROGRESS_SECONDS)
            self._poll(0)
        return len(self._producer)

    def _account(self) -> str:
        return f"send to {self._topic} ({self._confirmed:,} of {self._sent:,} messages sent were confirmed)"


def _client(settings: KafkaSettings) -> dict[str, Any]:
    return {
        "bootstrap.servers": settings.bootstrap_servers,
        "client.id": "lakehouse",
        "socket.timeout.ms": int(REQUEST_SECONDS * 1000),
        "log.connection.close": False,
    }


def _admin(settings: Settings) -> AdminClient:
    return _admin_of(tuple(sorted(_client(settings.kafka).items())))


@functools.lru_cache(maxsize=4)
def _admin_of(configuration: tuple[tuple[str, Any], ...]) -> AdminClient:
    # Kept, because connecting costs more than asking, and because a client's requests die with it.
    return AdminClient(dict(configuration), logger=_client_log)


def _partitions(settings: Settings, topic: str) -> list[int]:
    doing = f"look up topic {topic}"
    try:
        found = _admin(settings).list_topics(topic, timeout=REQUEST_SECONDS).topics[topic]
    except KafkaException as error:
        raise _translated(error, settings.kafka, doing) from error
    if found.error is not None:
        raise _translated(KafkaException(found.error), settings.kafka, doing)
    return sorted(found.partitions)


def _has_no_leader_yet(error: BaseException) -> bool:
    cause = error.__cause__
    return isinstance(cause, KafkaException) and _code(cause) in _NO_LEADER_YET


# A partition that was just made has no leader for a moment, which this client does not wait out for admin requests.
@tenacity.retry(
    retry=tenacity.retry_if_exception(_has_no_leader_yet),
    wait=tenacity.wait_fixed(POLL_SECONDS),
    stop=tenacity.stop_after_delay(REQUEST_SECONDS),
    reraise=True,
)
def _answers(settings: Settings, doing: str, request: Callable[[AdminClient], Any]) -> dict[Any, Any]:
    """What the parts of one admin request bring; every fault translated."""
    try:
        return {key: future.result(REQUEST_SECONDS + 5) for key, future in request(_admin(settings)).items()}
    except KafkaException as error:
        raise _translated(error, settings.kafka, doing) from error
    except TimeoutError as error:
        raise _unanswered(settings.kafka, doing) from error


def _done(
    settings: Settings,
    doing: str,
    request: Callable[[AdminClient], Any],
    *,
    unless: Collection[int],
) -> bool:
    """Make an admin request; False when Kafka answers with one of the codes that mean there was nothing to do."""
    try:
        _answers(settings, doing, request)
    except LakehouseError as error:
        if isinstance(error.__cause__, KafkaException) and _code(error.__cause__) in unless:
            return False
        raise
    return True


def _code(error: KafkaException) -> int:
    return error.args[0].code()


def _translated(error: KafkaException, settings: KafkaSettings, doing: str) -> LakehouseError:
    fault: KafkaError = error.args[0]
    servers = settings.bootstrap_servers
    if fault.code() in _NO_SUCH_TOPIC:
        return NotMadeError(
            f"Kafka at {servers} could not {doing}: there is no such topic; "
            "`lakehouse produce` and `lakehouse announce` make theirs"
        )
    if fault.code() in _PASSING_FAULTS:
        return ServerUnavailableError(
            f"Kafka at {servers} could not {doing}: {fault.str()}; see `lakehouse stack status`, then run this again"
        )
    return TerminalError(f"Kafka at {servers} refused to {doing}: {fault.str()} ({fault.name()})")


def _unanswered(settings: KafkaSettings, doing: str) -> ServerUnavailableError:
    return ServerUnavailableError(
        f"Kafka at {settings.bootstrap_servers} gave no answer in time when asked to {doing}; "
        "see `lakehouse stack status`, then run this again"
    )
