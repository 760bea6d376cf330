"""What Spark's tasks do with announced files: check each one whole, then give the lines of those that count.

The two are jobs of their own, because a file must be found good to its last byte before any of its lines counts: the
checksum is known at the end. Both read the same version of the object, pinned by its id or its ETag.
"""

import hashlib
import io
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import pyarrow as pa

from lakehouse.adapters.objects import ObjectError, Objects, ObjectVersion, Trouble
from lakehouse.errors import ServerUnavailableError, SettingsError, shorten
from lakehouse.file_contract import AMOUNT, DATASETS, BadFileError, FileReason, Notification
from lakehouse.file_formats import BLOCK_BYTES, read_lines
from lakehouse.settings import S3Settings

Finding = Literal["good", "bad", "unserved", "unavailable", "misconfigured"]
"""`unserved`: the object store answers, and fails on this object.

`unavailable` and `misconfigured` say something of the object store and nothing of the file.
"""

FINDINGS: Final = pa.schema(
    [
        pa.field("number", pa.int32()),  # of the file, as the task was told them
        pa.field("finding", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("message", pa.string()),
        pa.field("line_count", pa.int64()),
        pa.field("modified_seconds", pa.int64()),  # the object store's time of the version, since 1970
    ]
)
FINDINGS_DDL: Final = (
    "number int, finding string, reason string, message string, line_count long, modified_seconds long"
)
LINES: Final = pa.schema(
    [
        pa.field("day", pa.int32()),  # number of the day, as the task was told them
        pa.field("sku", pa.string()),
        pa.field("product_name", pa.string()),
        pa.field("user_id", pa.string()),
        pa.field("quantity", pa.int64()),
        pa.field("amount", AMOUNT),
    ]
)
LINES_DDL: Final = "day int, sku string, product_name string, user_id string, quantity long, amount decimal(12,2)"

TASK_BYTES: Final = 64 << 20
TASK_FILES: Final = 50

_REASONS: Final[dict[Trouble, FileReason]] = {
    "missing": FileReason.MISSING_OBJECT,
    "changed": FileReason.ANOTHER_VERSION,
    "denied": FileReason.ACCESS_DENIED,
}
_OF_THE_STORE: Final = frozenset({"unavailable", "misconfigured"})
_found_of_the_store: Final[dict[str, dict[str, Any]]] = {}
"""What this process found of the object store, by job: Spark has one process do many tasks, one after the other."""


def plan_tasks(sizes_bytes: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Cut files into tasks, by their numbers: a large one is a task of its own, small ones share one."""
    tasks: list[list[int]] = []
    held_bytes = 0
    for number, size_bytes in enumerate(sizes_bytes):
        if not tasks or len(tasks[-1]) >= TASK_FILES or held_bytes + size_bytes > TASK_BYTES:
            tasks.append([])
            held_bytes = 0
        tasks[-1].append(number)
        held_bytes += size_bytes
    return tuple(map(tuple, tasks))


@dataclass(frozen=True, slots=True)
class CheckTask:
    """Says of files whether they are what was announced; sent to the executors.

    Attributes:
        tasks: which files each task of the job takes.
        counted: numbers of the files that count already, so that it is enough that they are still there.
        job: another one for each.
    """

    s3: S3Settings
    files: tuple[Notification, ...]
    tasks: tuple[tuple[int, ...], ...]
    counted: frozenset[int]
    job: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Check the files of each task in the column `id`; yields rows of `FINDINGS`."""
        objects = Objects(self.s3)
        for batch in batches:
            for task in batch.column("id").to_pylist():
                found = [{"number": number} | self._find(objects, number) for number in self.tasks[task]]
                yield pa.RecordBatch.from_pylist(found, schema=FINDINGS)

    def _find(self, objects: Objects, number: int) -> dict[str, Any]:
        # A finding of the store holds for the whole job. To ask for the next file may take minutes, and so hours for
        # all of them: whoever ends such a run leaves each file with an attempt that was none.
        if self.job in _found_of_the_store:
            return _found_of_the_store[self.job]
        found = self._check(objects, number)
        if found["finding"] in _OF_THE_STORE:
            _found_of_the_store[self.job] = found
        return found

    def _check(self, objects: Objects, number: int) -> dict[str, Any]:
        file = self.files[number]
        try:
            state = objects.look(_version(file))
            _see_size(state.size_bytes, file)
            lines = None
            if number not in self.counted:
                lines = sum(batch.num_rows for batch in lines_of(objects, file))
        except BadFileError as bad:
            return {"finding": "bad", "reason": bad.reason, "message": shorten(bad.message)}
        except ObjectError as error:
            return {"finding": "bad", "reason": _REASONS[error.trouble], "message": shorten(str(error))}
        except ServerUnavailableError as error:
            # Asked here and now: a store that goes away meanwhile, or is away for this machine, fails on every object.
            finding = "unserved" if objects.answers(file.bucket) else "unavailable"
            return {"finding": finding, "message": shorten(str(error))}
        except SettingsError as error:
            return {"finding": "misconfigured", "message": str(error)}
        return {"finding": "good", "line_count": lines, "modified_seconds": int(state.modified_at.timestamp())}


@dataclass(frozen=True, slots=True)
class LinesTask:
    """Gives the lines of files that were found good; sent to the executors.

    Attributes:
        files: each with the number of its day.
        tasks: which files each task of the job takes.
    """

    s3: S3Settings
    files: tuple[tuple[int, Notification], ...]
    tasks: tuple[tuple[int, ...], ...]

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Read the files of each task in the column `id`; yields rows of `LINES`."""
        objects = Objects(self.s3)
        for batch in batches:
            for task in batch.column("id").to_pylist():
                for number in self.tasks[task]:
                    day, file = self.files[number]
                    for lines in lines_of(objects, file, again=True):
                        columns = [lines.column(name) for name in LINES.names[1:]]
                        days = pa.repeat(pa.scalar(day, pa.int32()), lines.num_rows)
                        yield pa.record_batch([days, *columns], schema=LINES)


def lines_of(objects: Objects, file: Notification, *, again: bool = False) -> Iterator[pa.RecordBatch]:
    """Read the lines of a file, and see that its bytes are the announced ones.

    Args:
        objects: where it is.
        file: as it was announced.
        again: it was read before. A Parquet file is read in pieces, so its checksum takes a reading of its own, which
            is saved then; the others have theirs on the way.

    Raises:
        BadFileError: the file is not what was announced; where both differ, the checksum tells more than the lines.
        ObjectError: there is no such version any more.
    """
    dataset = DATASETS[file.dataset]
    stream = objects.open(_version(file), file.size_bytes)
    if file.format == "parquet":
        if not again:
            _Hashed(stream).see(file)
            stream.seek(0)
        yield from read_lines(stream, file.format, dataset, file.event_date)
        return
    hashed = _Hashed(stream)
    try:
        yield from read_lines(io.BufferedReader(hashed, BLOCK_BYTES), file.format, dataset, file.event_date)
    except BadFileError:
        # From its start again: Arrow reads ahead in a thread of its own, which may still be at it.
        _Hashed(objects.open(_version(file), file.size_bytes)).see(file)
        raise
    hashed.see(file)


class _Hashed(io.RawIOBase):
    """A stream that is read from front to back, with the SHA-256 of it."""

    def __init__(self, stream: io.RawIOBase) -> None:
        super().__init__()
        self._stream, self._digest = stream, hashlib.sha256()

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Some of the next bytes."""
        count = self._stream.readinto(buffer) or 0
        self._digest.update(memoryview(buffer)[:count])
        return count

    def close(self) -> None:
        """Stay open: who reads it through a buffer closes it, and the rest is still to be hashed."""

    def see(self, file: Notification) -> None:
        """Read what is left, and raise unless all of it was what was announced."""
        buffer = bytearray(BLOCK_BYTES)
        while self.readinto(buffer):
            pass
        if self._digest.hexdigest() != file.sha256:
            found = self._digest.hexdigest()
            raise BadFileError(FileReason.CHECKSUM_MISMATCH, f"SHA-256 {found}, and {file.sha256} was announced")


def _see_size(found_bytes: int, file: Notification) -> None:
    if found_bytes != file.size_bytes:
        told = f"{found_bytes:,} bytes, and {file.size_bytes:,} were announced"
        raise BadFileError(FileReason.SIZE_MISMATCH, told)


def _version(file: Notification) -> ObjectVersion:
    return ObjectVersion(file.bucket, file.key, file.version_id, file.etag)
