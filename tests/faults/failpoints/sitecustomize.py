"""Kill or hold a process of a command at an exact place; Python loads this in every process that has it on its path.

`FAILPOINT=place:action:first[-last]` acts on those hits of the place, counted over all processes of one command:

- `kill` ends the process that is there: the driver, or a Python worker of Spark's;
- `kill-driver` ends the driver while this process is there;
- `hold` waits there until somebody makes the file `release` in the directory `FAILPOINT_STATE`.

`FAILPOINT_SAME_NAMES=1` has the workers of every command draw the same "random" UUIDs.
"""

import fcntl
import functools
import importlib.machinery
import os
import re
import signal
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

PLACE, ACTION, HITS = (os.environ.get("FAILPOINT") or "none:kill:0").split(":")
FIRST, LAST = (int(hit) for hit in (HITS.split("-") * 2)[:2])
STATE = Path(os.environ["FAILPOINT_STATE"])
DRIVER = int(os.environ.setdefault("FAILPOINT_DRIVER", str(os.getpid())))
COMMIT = re.compile(r"/namespaces/\w*?(events|quarantine|ops)/tables/\w+?(_archive)?$")


def count(name: str) -> int:
    """Count one more, over all processes."""
    with (STATE / name).open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(b".")
        file.flush()
        return file.tell()


def hit(place: str) -> None:
    """Be at a place, perhaps for the last time."""
    if place != PLACE or not FIRST <= count(f"{place}.hits") <= LAST:
        return
    count("fired")
    if ACTION == "hold":
        while not (STATE / "release").exists():
            time.sleep(0.05)
        return
    os.kill(DRIVER if ACTION == "kill-driver" else os.getpid(), signal.SIGKILL)
    if ACTION == "kill-driver" and os.getpid() != DRIVER:
        time.sleep(60)  # the executor ends this worker, as it has lost its driver


def wrap(owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
    """Call `wrapper(original, *arguments)` where `owner.name` is called."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        return wrapper(functools.partial(original, **options), *arguments)

    setattr(owner, name, wrapped)


def call_task(original: Any, task: Any, batches: Any) -> Any:
    """`decoded`: a task's first batch was, and the next is asked for; `uploaded`: the files are, but not reported."""

    def watched() -> Any:
        for number, batch in enumerate(batches):
            yield batch
            if number == 0:  # into how many batches Kafka's answers fall is chance
                hit("decoded")

    for report in original(task, watched()):
        hit("uploaded")
        yield report


def write_table(original: Any, table: Any, where: Any, *arguments: Any) -> None:
    """`mid-file`: half of the file is written."""
    from pyarrow import BufferOutputStream  # noqa: PLC0415  # not at the start of every process

    whole = BufferOutputStream()
    original(table, whole, *arguments)
    content = whole.getvalue()
    where.write(content.slice(0, content.size // 2))
    hit("mid-file")
    where.write(content.slice(content.size // 2))


def append(original: Any, lake: Any, spec: Any, *arguments: Any) -> Any:
    """`quarantine-appended`, `events-appended`: the commit is done."""
    snapshot_id = original(lake, spec, *arguments)
    hit(f"{spec.namespace}-appended")
    return snapshot_id


def collect(original: Any, *arguments: Any) -> Any:
    """`planned`: the Spark job is about to start; `collected`: it has ended, and nothing is committed."""
    hit("planned")
    rows = original(*arguments)
    hit("collected")
    return rows


def send(original: Any, adapter: Any, request: Any, *arguments: Any) -> Any:
    """`events-sending` (`quarantine-`, `ops-`, `archive-`): all but the commit is done; `events-landed`: it landed."""
    commit = COMMIT.search(request.url) if request.method == "POST" else None
    name = commit and ("archive" if commit[2] else commit[1])
    if name:
        hit(f"{name}-sending")
    answer = original(adapter, request, *arguments)
    if name:
        hit(f"{name}-landed")
    return answer


def take_step(original: Any, lake: Any, step: Any, *arguments: Any) -> None:
    """`publishing`: one more step is about to be taken; `published`: it was."""
    hit("publishing")
    original(lake, step, *arguments)
    hit("published")


def passed(place: str) -> Callable[..., Any]:
    """A place behind a call."""

    def call(original: Any, *arguments: Any) -> Any:
        answer = original(*arguments)
        hit(place)
        return answer

    return call


def part_files(module: Any) -> None:
    """`part-written`, `part-read-back`, `part-described`, `manifest-removed`: that is done, the next step is not."""
    wrap(module.PartFiles, "write", passed("part-written"))
    wrap(module.PartFiles, "read_back", passed("part-read-back"))
    wrap(module.PartFiles, "save", passed("part-described"))
    wrap(module.PartFiles, "remove_manifest", passed("manifest-removed"))


def before_and_after(place: str, done: str) -> Callable[..., Any]:
    """A place in front of a call, and one behind it."""

    def call(original: Any, *arguments: Any) -> Any:
        hit(place)
        answer = original(*arguments)
        hit(done)
        return answer

    return call


def read_file(original: Any, objects: Any, file: Any, *arguments: Any) -> Any:
    """`reading-` and the name of the file: a worker is about to read it."""
    hit(f"reading-{Path(file.key).name}")
    return original(objects, file, *arguments)


def file_store(module: Any) -> None:
    """`files-recorded`, `files-claimed`, `files-set-aside`, `files-finishing`, `files-finished`: the transactions."""
    wrap(module.FileStore, "record", passed("files-recorded"))
    wrap(module.FileStore, "claim", passed("files-claimed"))
    wrap(module.FileStore, "set_aside", passed("files-set-aside"))
    wrap(module.FileStore, "finish", before_and_after("files-finishing", "files-finished"))
    wrap(module.FileStore, "_replace_days", passed("files-day-written"))


def parquet(module: Any) -> None:
    """`mid-part`: the first rows of a part's file are written, and its end is not."""
    wrap(module, "write_table", write_table)
    wrap(module.ParquetWriter, "write_table", passed("mid-part"))


def ads_store(module: Any) -> None:
    """`ads-merged`, `ads-removed`: done, not committed; `ads-locked`: nobody writes; `ads-committed`: each commit.

    `ads-read-back`: what was read back of a batch's files is in the session.
    """
    wrap(module.Session, "take_back", passed("ads-read-back"))
    wrap(module.Session, "merge_staged", passed("ads-merged"))
    wrap(module.Session, "hold_writers", passed("ads-locked"))
    wrap(module.Session, "remove_archived", passed("ads-removed"))
    wrap(module.Session, "commit", passed("ads-committed"))


def ads_backup(module: Any) -> None:
    """`ads-part-stored`; `ads-stored`: the backup is whole, and nothing is inserted."""
    wrap(module.Backups, "_write_part", passed("ads-part-stored"))
    wrap(module.Backups, "save", passed("ads-stored"))


def ads_files(module: Any) -> None:
    """`ads-written`: the files of a batch are."""
    wrap(module.ArchiveFiles, "write", passed("ads-written"))


def ads_archive(module: Any) -> None:
    """`ads-registering`, `ads-registered`: before and after the commit that registers a batch."""

    def register(original: Any, *arguments: Any) -> None:
        hit("ads-registering")
        original(*arguments)
        hit("ads-registered")

    wrap(module.AdsArchive, "register", register)


WATCHED: dict[str, Callable[[Any], None]] = {
    "lakehouse.ingest_task": lambda module: wrap(module.IngestTask, "__call__", call_task),
    "lakehouse.csv_task": lambda module: wrap(module.CsvTask, "__call__", call_task),
    "lakehouse.csv_drop": lambda module: wrap(module._Run, "_delete_from_quarantine", passed("quarantine-cleared")),
    "lakehouse.adapters.catalog": lambda module: wrap(module.Lake, "append", append),
    "lakehouse.adapters.file_store": file_store,
    "lakehouse.adapters.kafka": lambda module: wrap(module, "commit", passed("offsets-committed")),
    "lakehouse.file_task": lambda module: wrap(module, "lines_of", read_file),
    "lakehouse.adapters.spark": lambda module: wrap(module, "collect", collect),
    "lakehouse.publish": lambda module: wrap(module, "_take", take_step),
    "lakehouse.archive_files": part_files,
    "lakehouse.adapters.ads_store": ads_store,
    "lakehouse.adapters.ads_archive": ads_archive,
    "lakehouse.ads.backup": ads_backup,
    "lakehouse.ads.archive_files": ads_files,
    "pyarrow.parquet": parquet,
    "requests.adapters": lambda module: wrap(module.HTTPAdapter, "send", send),
}


class Finder:
    """Changes a watched module as soon as it is imported."""

    @staticmethod
    def find_spec(fullname: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """Find it as Python does, and have its loader wrap what is watched."""
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target) if fullname in WATCHED else None
        if spec and spec.loader:
            execute = spec.loader.exec_module

            def exec_module(module: Any) -> None:
                execute(module)
                WATCHED[fullname](module)

            spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Finder)

if os.environ.get("FAILPOINT_SAME_NAMES") and os.getpid() != DRIVER:
    uuid.uuid4 = lambda: uuid.uuid5(uuid.NAMESPACE_OID, str(count("uuids")))
