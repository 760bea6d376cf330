"""Commands of ours as real processes that die where a test says, and the proof that nothing is lost or doubled."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from pyarrow import parquet

from lakehouse import ingest
from lakehouse.adapters import kafka, trino
from lakehouse.adapters.catalog import Lake
from lakehouse.adapters.kafka import Message
from lakehouse.audit import audit
from lakehouse.events import RULE_VERSION
from lakehouse.settings import Settings
from lakehouse.tables import INGESTED, USER_ACTIONS, USER_ACTIONS_QUARANTINE
from tests.shops import bad, good, open_shop, wait_until
from tests.stacks import processes_with

LAKEHOUSE = str(Path(sys.executable).with_name("lakehouse"))
FAILPOINTS = Path(__file__).with_name("failpoints")
PARTITIONS = 3
BAD_EVERY = 20
WAIT_SECONDS = 240
MARK = "FAILPOINT_STATE"  # in the environment of every process that a command starts, and nobody else's


@dataclass
class Command:
    """A `lakehouse` command in a process of its own, with all the processes it starts."""

    process: subprocess.Popen[bytes]
    state: Path

    @property
    def fired(self) -> int:
        """How often the failpoint acted."""
        file = self.state / "fired"
        return file.stat().st_size if file.exists() else 0

    @property
    def output(self) -> str:
        return (self.state / "stdout").read_text()

    @property
    def said(self) -> str:
        return (self.state / "stderr").read_text()

    def ends(self, *codes: int) -> int:
        """Wait for its end with one of these exit codes, and until all its children are gone."""
        code = self.process.wait(WAIT_SECONDS)
        assert code in codes, f"ended with {code}: {self.said[-3000:]}"
        wait_until(lambda: not self.processes(), "the JVM and the Python workers outlive their driver", 60)
        return code

    def dies(self) -> None:
        """Wait until the failpoint has killed it, its JVM and its workers with it."""
        self.ends(-signal.SIGKILL)
        assert self.fired == 1

    def is_held(self) -> bool:
        assert self.process.poll() is None, self.said[-3000:]
        return self.fired > 0

    def release(self) -> None:
        (self.state / "release").touch()

    def processes(self) -> list[psutil.Process]:
        return processes_with(MARK, str(self.state))


@dataclass
class Shop:
    """An environment with a topic, and what was sent to it."""

    settings: Settings
    environment: Mapping[str, str]
    good: int = 0
    bad: int = 0
    commands: list[Command] = field(default_factory=list[Command])

    def send(self, count: int) -> None:
        """Send so many messages; each 20th is no JSON, the others are events of two days in turn."""
        first = self.good + self.bad
        messages = [_message(number) for number in range(first, first + count)]
        kafka.send(self.settings, self.settings.user_actions_topic, messages)
        refused = sum(number % BAD_EVERY == 0 for number in range(first, first + count))
        self.good += count - refused
        self.bad += refused

    def start(self, *command: str, failpoint: str = "", **environment: str) -> Command:
        """Start a command.

        Args:
            command: words after `lakehouse`.
            failpoint: see failpoints/sitecustomize.py.
            environment: more variables.
        """
        state = Path(tempfile.mkdtemp(prefix="faults-"))
        with (state / "stdout").open("wb") as stdout, (state / "stderr").open("wb") as stderr:
            process = subprocess.Popen(
                [LAKEHOUSE, *command],
                env=dict(self.environment)
                | environment
                | {
                    "PYTHONPATH": os.pathsep.join(filter(None, [str(FAILPOINTS), os.environ.get("PYTHONPATH")])),
                    MARK: str(state),
                    "FAILPOINT": failpoint,
                    "JDK_JAVA_OPTIONS": "-XX:TieredStopAtLevel=1",  # halves the start, and no test is long
                },
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
        self.commands.append(Command(process, state))
        return self.commands[-1]

    def ingest(self, *, failpoint: str = "", **environment: str) -> Command:
        """Start a run that takes 100 offsets to a commit, in tasks of 50."""
        small = {"LAKEHOUSE_INGEST__ROWS_PER_RUN": "100", "LAKEHOUSE_INGEST__ROWS_PER_TASK": "50"}
        return self.start("ingest", "run", "--output", "json", failpoint=failpoint, **small | environment)

    def follow(self, *, failpoint: str = "", **environment: str) -> Command:
        """Start a follower that commits each second."""
        often = {"LAKEHOUSE_INGEST__COMMIT_SECONDS": "1"}
        return self.start("ingest", "follow", failpoint=failpoint, **often | environment)

    def finish(self) -> None:
        """Ingest what is left; in this process, whose JVM is warm after the first time."""
        ingest.run(self.settings)

    def committed_rows(self) -> int:
        """Rows that are in either table now."""
        lake = Lake(self.settings)
        counted = [entry.summary for entry in (lake.load(spec).current_snapshot() for spec in INGESTED) if entry]
        return sum(int(s.additional_properties["total-records"]) for s in counted if s)

    def compact_and_expire(self) -> None:
        """Rewrite the small files of both tables and forget every snapshot but the newest, with its files."""
        for spec in INGESTED:
            table = f'{self.settings.catalog.name}."{self.settings.prefix}{spec.namespace}".{spec.name}'
            self._maintain(f"ALTER TABLE {table} EXECUTE optimize")
            self._maintain(f"ALTER TABLE {table} EXECUTE expire_snapshots(retention_threshold => '0s')")
            assert len(Lake(self.settings).load(spec).snapshots()) <= 1

    def commit_nothing(self) -> None:
        """Add an empty snapshot to both tables, as any other writer might."""
        for spec in INGESTED:
            with (
                Lake(self.settings).load(spec).transaction() as transaction,
                transaction.update_snapshot().fast_append(),
            ):
                pass

    def _maintain(self, sql: str) -> None:
        session = {f"{self.settings.catalog.name}.expire_snapshots_min_retention": "0s"}
        with trino.connection(self.settings.trino_as("admin"), session_properties=session) as connection:
            connection.cursor().execute(sql).fetchall()

    def assert_settled(self) -> None:
        """Prove that every message is in one table, once, in a file that can be read, and that the audit says so."""
        lake = Lake(self.settings)
        available = kafka.offsets(self.settings, self.settings.user_actions_topic)
        coordinates: Counter[tuple[int, int]] = Counter()
        rows: dict[str, int] = {}
        for spec in INGESTED:
            table = lake.load(spec)
            for file in table.inspect.all_data_files().to_pylist():  # those of older snapshots too
                with table.io.new_input(file["file_path"]).open() as stream:
                    assert parquet.read_table(stream).num_rows == file["record_count"]
            held = table.scan(selected_fields=("kafka_partition", "kafka_offset")).to_arrow()
            rows[spec.identifier] = held.num_rows
            coordinates.update(zip(held["kafka_partition"].to_pylist(), held["kafka_offset"].to_pylist(), strict=True))
        assert coordinates == Counter((p, o) for p, (start, end) in available.items() for o in range(start, end))
        assert rows == {USER_ACTIONS.identifier: self.good, USER_ACTIONS_QUARANTINE.identifier: self.bad}
        report = audit(self.settings)
        assert report.ok, report.gaps
        assert [row.lag_rows for row in report.ledger] == [0] * PARTITIONS
        assert sum(row.published_rows for row in report.ledger) == self.good
        assert sum(row.quarantined_rows for row in report.ledger) == self.bad

    def end(self) -> None:
        """Kill what is left of the commands it started, and remove what they said."""
        for command in self.commands:
            if command.process.poll() is None:
                command.process.kill()
            command.process.wait(60)
            for process in command.processes():
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            shutil.rmtree(command.state)


@contextmanager
def opened(settings: Settings, environment: Mapping[str, str]) -> Generator[Shop]:
    """Open a shop in an environment that is dropped by who made it.

    Args:
        settings: those of the environment, on servers that run.
        environment: the variables with which a process reads the same settings.
    """
    open_shop(settings, PARTITIONS)
    for spec in INGESTED:
        Lake(settings).load_to_write(spec, RULE_VERSION)  # a commit of its own, which the tests need not count
    own = {"LAKEHOUSE_PREFIX": settings.prefix, "LAKEHOUSE_HOME": str(settings.home)}
    shop = Shop(settings, dict(environment) | own)
    try:
        yield shop
    finally:
        shop.end()


def _message(number: int) -> Message:
    return good(number, day=22 + number % 2) if number % BAD_EVERY else bad(number)
