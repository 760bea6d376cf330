"""Keep the tables healthy: measure each, plan by its policy, and do what the plan says beside whoever writes.

Trino rewrites and expires, one commit an action; an action that was cut off has changed nothing, and what it leaves in
the object store is an orphan that a later run removes. Orphans are deleted by their exact names, and only where two
engines agree that nothing names them: Trino's own procedure can't say beforehand what it would delete.

What an action did becomes a row of `ops.maintenance_runs`.
"""

import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from threading import Event
from typing import Any, Final, Literal, TypeVar

import orjson
import pyarrow as pa

from lakehouse import maintenance_plan, table_cost, transform
from lakehouse.adapters import trino, upkeep
from lakehouse.adapters.marts import PASSED, PUBLISHED
from lakehouse.adapters.upkeep import Upkeep
from lakehouse.errors import CommitStateUnknownError, LakehouseError, TerminalError, TransientError
from lakehouse.maintenance_plan import (
    Action,
    Analyze,
    Compact,
    ExpireSnapshots,
    Health,
    PartitionState,
    RemoveOrphans,
    RewriteManifests,
    TableState,
    writes_to,
)
from lakehouse.settings import Settings
from lakehouse.tables import ALL, MAINTENANCE_RUNS, Policy

MODEL_NAMESPACES: Final = ("intermediate", "build")
_TAGS: Final = {"intermediate": PASSED, "build": PUBLISHED}
_PASSES: Final = 3
"""Compaction may leave what compaction can still mend, such as files that became smaller than they were."""
_ATTEMPTS: Final = 4
_FIRST_WAIT_SECONDS: Final = 1.0
"""Doubles with each attempt: a writer that commits each second leaves room soon."""
_CLOCKS_APART: Final = timedelta(minutes=5)
_PROBED_BYTES: Final = 1 << 30
"""The timed query reads one column; of a table larger than this, only of one partition."""
_PATHS_AT_ONCE: Final = 500
_RUNS_SHOWN_DAYS: Final = 30

Outcome = Literal["done", "failed", "skipped"]
Tell = Callable[[str], None]
Clock = Callable[[], datetime]
_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A table to maintain.

    Attributes:
        name: `namespace.name`, without prefix.
        policy: the table's.
        analyzed: columns to make statistics of: none that may name a person.
        probed: the column that the timed query reads; None leaves it out.
        is_model: dbt writes it, so its builds are kept out meanwhile.
    """

    name: str
    policy: Policy
    analyzed: tuple[str, ...] = ()
    probed: str | None = None
    is_model: bool = False

    @property
    def tag(self) -> str | None:
        """The tag that moves along to rewritten files."""
        return _TAGS.get(self.name.partition(".")[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class TablePlan:
    """What is to do about a table.

    Attributes:
        notes: what is left alone, and why.
    """

    table: str
    actions: tuple[Action, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What an action did; a row of `ops.maintenance_runs`, whose columns say what each figure means."""

    table_name: str
    action: str
    table_partition: str | None
    reason: str
    started_at: datetime
    ended_at: datetime
    outcome: Outcome
    error: str | None
    exit_code: int
    files_before: int
    files_after: int | None
    bytes_before: int
    bytes_after: int | None
    reclaimed_bytes: int
    probe: str | None
    planning_seconds_before: float | None
    planning_seconds_after: float | None
    scan_seconds_before: float | None
    scan_seconds_after: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a run did.

    Attributes:
        stopped: it was asked to end before all was done.
    """

    run_id: str
    tables: int
    actions: tuple[Done, ...]
    stopped: bool

    @property
    def failed(self) -> tuple[Done, ...]:
        """The actions that failed."""
        return tuple(done for done in self.actions if done.outcome == "failed")


@dataclass(frozen=True, slots=True)
class LastRun:
    """The last run that did something about a table, and the bytes that runs of the last days reclaimed."""

    ended_at: datetime
    failed: int
    reclaimed_bytes: int


def targets(settings: Settings, names: Sequence[str] = ()) -> list[Target]:
    """The tables to maintain: those of the specs, and those that dbt built; only the named ones when there are names.

    A model's policy stands in its `meta` in dbt's manifest; without a manifest it is the default one.

    Raises:
        TerminalError: a name is of no table, or a model's policy makes no sense.
        TransientError: the catalog did not answer.
    """
    found = {
        spec.identifier: Target(
            name=spec.identifier,
            policy=spec.policy,
            analyzed=tuple(c.name for c in spec.columns if not c.pii and not pa.types.is_nested(c.type)),
            probed=spec.sort_by[0],
        )
        for spec in ALL
        if spec is not MAINTENANCE_RUNS
    }
    models = read_policies(_manifest(settings), settings.prefix)
    unread = replace(Policy(), analyze_bytes=0)  # which of its columns name a person, nobody says
    for name in Upkeep(settings).tables(*MODEL_NAMESPACES):
        found[name] = models.get(name) or Target(name=name, policy=unread, is_model=True)
    spec = MAINTENANCE_RUNS  # last, because the others write to it
    found[spec.identifier] = Target(name=spec.identifier, policy=spec.policy, probed=spec.sort_by[0])
    if unknown := [name for name in names if name not in found]:
        raise TerminalError(f"no table is called {', '.join(unknown)}; there are {', '.join(found)}")
    return [target for name, target in found.items() if not names or name in names]


def read_policies(manifest: Mapping[str, Any] | None, prefix: str) -> dict[str, Target]:
    """Read the policies of dbt's models from its `manifest.json`, by `namespace.name`.

    Raises:
        TerminalError: a policy makes no sense.

    Source: dbt's artifact schema `manifest/v12`.
    """
    found: dict[str, Target] = {}
    for node in (manifest or {"nodes": {}})["nodes"].values():
        if node["resource_type"] != "model" or node["config"]["materialized"] == "view":
            continue
        name = f"{node['schema'].removeprefix(prefix)}.{node['alias']}"
        try:
            policy = Policy(**node["config"].get("meta", {}).get("maintenance", {}))
        except (TypeError, ValueError) as error:
            raise TerminalError(f"the model {node['alias']} has no policy in meta.maintenance: {error}") from error
        columns = tuple(name for name, column in node["columns"].items() if not _is_personal(column))
        probed = next(iter(node["columns"]), None)
        found[name] = Target(name=name, policy=policy, analyzed=columns, probed=probed, is_model=True)
    return found


def plan(settings: Settings, chosen: Sequence[Target], now: datetime) -> tuple[TablePlan, ...]:
    """Measure the tables and say what is to do, and why; changes nothing.

    Raises:
        TransientError: a server did not answer.
    """
    return tuple(
        TablePlan(
            table=target.name,
            actions=tuple(_plan(settings, target, state, now)),
            notes=tuple(
                maintenance_plan.notes(state, target.policy, now, statement_bytes=settings.maintenance.statement_bytes)
            ),
        )
        for target, state in measure(settings, chosen, now)
    )


def health(settings: Settings, chosen: Sequence[Target], now: datetime) -> tuple[Health, ...]:
    """Measure the tables and say which are as a daily run keeps them, and why others are not.

    Raises:
        TransientError: a server did not answer.
    """
    return tuple(
        maintenance_plan.health(state, target.policy, now, statement_bytes=settings.maintenance.statement_bytes)
        for target, state in measure(settings, chosen, now)
    )


def measure(settings: Settings, chosen: Sequence[Target], now: datetime) -> Iterable[tuple[Target, TableState]]:
    """Measure those of the tables that exist, one after another.

    Raises:
        TransientError: a server did not answer.
    """
    lake = Upkeep(settings)
    places = lake.places()
    running = _running(settings)
    for target in chosen:
        state = lake.measure(target.name, target.policy, now, places=places)
        if state is not None:
            yield target, replace(state, writers=_writers(settings, target, running))


def cost(settings: Settings, chosen: Sequence[Target], now: datetime) -> table_cost.CostReport:
    """Say what the tables cost in bytes, and what would change that.

    Raises:
        TransientError: a server did not answer.
    """
    kept = {spec.identifier: spec.policy.archive_after_days or spec.retention_days for spec in ALL}
    measured = [
        table_cost.Measured(state, target.policy, kept.get(target.name))
        for target, state in measure(settings, chosen, now)
    ]
    archive = upkeep.list_objects(settings.s3, f"s3://{settings.s3.archive_bucket}/{settings.prefix}")
    return table_cost.report(measured, sum(size for size, _ in archive.values()), now)


def refuse_wrong_clock(settings: Settings, now: datetime) -> None:
    """See that our clock is Trino's, because age decides what is deleted.

    Raises:
        TerminalError: they are too far apart.
    """
    theirs = _trino_now(settings)
    if abs(theirs - now) > _CLOCKS_APART:
        raise TerminalError(
            f"this machine's clock says {now:%Y-%m-%d %H:%M:%S} and Trino's {theirs:%Y-%m-%d %H:%M:%S} UTC: "
            "set the wrong one right; nothing was changed"
        )


def apply(
    settings: Settings,
    chosen: Sequence[Target],
    *,
    clock: Clock = lambda: datetime.now(UTC),
    stop: Event | None = None,
    tell: Tell = lambda _: None,
) -> Report:
    """Do what is due, table by table; an action that fails ends the work on its table, and the others go on.

    It may run beside writers and beside itself, and can be cut off anywhere.

    Args:
        settings: where the servers are.
        chosen: the tables.
        clock: what time it is, UTC.
        stop: ends the run after the action under way.
        tell: called with a line before and after each action.

    Raises:
        TransientError: a server did not answer before anything was done, or when what was done was to be written down.
    """
    run = _Run(settings, clock, stop or Event(), tell)
    run.lake.apply(MAINTENANCE_RUNS)
    run.places = run.lake.places()
    for target in chosen:
        if run.stop.is_set():
            break
        done: list[Done] = []
        try:
            run.maintain(target, done)
        finally:
            _record(settings, run.run_id, done)
            run.done += done
    return Report(run_id=run.run_id, tables=len(chosen), actions=tuple(run.done), stopped=run.stop.is_set())


def last_runs(settings: Settings, now: datetime) -> dict[str, LastRun]:
    """What maintenance did to each table in the last `_RUNS_SHOWN_DAYS` days, by its name.

    Raises:
        TransientError: the catalog or the object store did not answer.
    """
    lake = Upkeep(settings)
    try:
        table = lake.load(MAINTENANCE_RUNS)
    except TerminalError:  # not made yet
        return {}
    since = (now - timedelta(days=_RUNS_SHOWN_DAYS)).date().isoformat()
    columns = ("table_name", "run_id", "ended_at", "outcome", "reclaimed_bytes")
    rows = [
        row
        for batch in lake.read(table, (*columns, "ended_date"), [("ended_date", ">=", since)]).batches
        for row in batch.to_pylist()
    ]
    found: dict[str, LastRun] = {}
    for name in sorted({row["table_name"] for row in rows}):
        ours = [row for row in rows if row["table_name"] == name]
        ended_at, run_id = max((row["ended_at"], row["run_id"]) for row in ours)
        failed = sum(row["outcome"] == "failed" for row in ours if row["run_id"] == run_id)
        found[name] = LastRun(ended_at, failed, sum(row["reclaimed_bytes"] for row in ours))
    return found


class _Run:
    """One run over the tables."""

    def __init__(self, settings: Settings, clock: Clock, stop: Event, tell: Tell) -> None:
        self.settings = settings
        self.clock = clock
        self.stop = stop
        self.tell = tell
        self.run_id = uuid.uuid4().hex
        self.lake = Upkeep(settings)
        self.places: Mapping[str, str] = {}
        self.done: list[Done] = []

    def maintain(self, target: Target, done: list[Done]) -> None:
        """Do what is due about a table; what was done is added to the list as it is."""
        with suppress(_BuildRunsError):  # a run that was killed may have left it
            self._kept_out(target, lambda: self._carry_tag(target))
        probe: str | None = None
        for number in range(_PASSES):
            state = _insist(lambda first=not number: self._measure(target, with_objects=first))
            if state is None:
                return
            actions = _plan(self.settings, target, state, self.clock())
            if number:  # the rest was due once; compaction may have left what it can still mend
                actions = [action for action in actions if isinstance(action, Compact)]
            probe = probe or _probe(self.settings, target, state)
            for place, action in enumerate(actions, start=1):
                if self.stop.is_set():
                    return
                self.tell(f"{target.name}: {action.kind}, {place} of {len(actions)}: {action.reason}")
                done.append(self._take(target, action, probe))
                if done[-1].outcome != "done":
                    self.tell(f"{target.name}: {done[-1].outcome}: {done[-1].error}")
                    return
            if not any(isinstance(action, Compact) for action in actions):
                return

    def _measure(self, target: Target, *, with_objects: bool) -> TableState | None:
        places = self.places if with_objects else None
        state = self.lake.measure(target.name, target.policy, self.clock(), places=places)
        return state and replace(state, writers=_writers(self.settings, target, _running(self.settings)))

    def _take(self, target: Target, action: Action, probe: str | None) -> Done:
        """Take one action, between two runs of the timed query."""
        before = self._timed(probe)
        started_at, size = self.clock(), self.lake.size(target.name)
        outcome: Outcome = "done"
        problem: str | None = None
        exit_code = reclaimed = 0
        try:
            reclaimed = self._kept_out(target, lambda: _insist(lambda: self._do(target, action)))
        except _BuildRunsError as error:
            outcome, problem = "skipped", str(error)
        except LakehouseError as error:
            outcome, problem, exit_code = "failed", str(error), error.exit_code
        after = self._timed(probe) if outcome == "done" else None
        left = self.lake.size(target.name) if outcome == "done" else None
        return Done(
            table_name=target.name,
            action=action.kind,
            table_partition=action.partition if isinstance(action, Compact) else None,
            reason=action.reason,
            started_at=started_at,
            ended_at=self.clock(),
            outcome=outcome,
            error=problem,
            exit_code=exit_code,
            files_before=size.files,
            files_after=left and left.files,
            bytes_before=size.size_bytes,
            bytes_after=left and left.size_bytes,
            reclaimed_bytes=reclaimed,
            probe=probe,
            planning_seconds_before=before and before.planning_seconds,
            planning_seconds_after=after and after.planning_seconds,
            scan_seconds_before=before and before.scan_seconds,
            scan_seconds_after=after and after.scan_seconds,
        )

    def _kept_out(self, target: Target, do: Callable[[], _Answer]) -> _Answer:
        """Do something to a model while no build of this machine writes to it.

        Raises:
            _BuildRunsError: one does.
        """
        if not target.is_model:
            return do()
        with ExitStack() as kept_out:
            try:
                kept_out.enter_context(transform.only_one(transform.target_directory(self.settings)))
            except TransientError as error:
                raise _BuildRunsError(f"{error}; the next run does it") from error
            return do()

    def _do(self, target: Target, action: Action) -> int:
        """Do what an action says; returns the bytes that it took out of the object store."""
        before = self.lake.mark(target.name)
        reclaimed = 0
        match action:
            case Compact():
                self._execute(target, compaction(action), _writing(self.settings, target))
            case ExpireSnapshots():
                reclaimed = self._expire(target, action)
            case RewriteManifests():
                self._execute(target, "EXECUTE optimize_manifests")
            case Analyze():
                columns = ", ".join(f"'{column}'" for column in target.analyzed)
                name = _quoted(self.settings, target.name)
                upkeep.run(self._login, f"ANALYZE {name} WITH (columns = ARRAY[{columns}])")
            case RemoveOrphans():
                self._refuse_known(target, action)
                reclaimed = self.lake.remove(target.name, action.objects, self.clock())
        self.lake.refuse_loss(target.name, before)
        self._carry_tag(target)
        return reclaimed

    def _expire(self, target: Target, action: ExpireSnapshots) -> int:
        held = self.lake.objects(target.name)
        # By Trino's clock, which is what it counts from, so that a wrong one of ours lets nothing younger expire.
        age = max(_trino_now(self.settings) - action.before, timedelta())
        milliseconds = int(age / timedelta(milliseconds=1))
        catalog = self.settings.catalog.name
        self._execute(
            target,
            f"EXECUTE expire_snapshots(retention_threshold => '{milliseconds}ms')",
            {f"{catalog}.expire_snapshots_min_retention": "0s"},
        )
        left = self.lake.objects(target.name)
        return sum(size for path, size in held.items() if path not in left)

    def _refuse_known(self, target: Target, action: RemoveOrphans) -> None:
        """See that Trino too finds none of these objects among what the table names.

        Of data files it reads those of the newest snapshot and of each that a tag or branch names. Trino 476 fails to
        list those of all snapshots at once (`$all_entries`) where pyiceberg wrote a manifest.

        Raises:
            TerminalError: it does, so one of the two engines misreads the table.
        """

        def named(suffix: str, column: str, version: int | None = None) -> str:
            as_of = "" if version is None else f" FOR VERSION AS OF {version}"
            return f"SELECT {column} FROM {_quoted(self.settings, target.name, suffix)}{as_of} WHERE {column} IN "

        asked = [
            named("$files", "file_path"),
            named("$all_manifests", "path"),
            named("$snapshots", "manifest_list"),
            named("$metadata_log_entries", "file"),
            *(named("", '"$path"', version) for version in self.lake.named_snapshots(target.name)),
        ]
        paths = [each.path for each in action.objects]
        for start in range(0, len(paths), _PATHS_AT_ONCE):
            some = ", ".join(map(trino.literal, paths[start : start + _PATHS_AT_ONCE]))
            for question in asked:
                if known := upkeep.run(self._login, f"{question}({some})").rows:
                    raise TerminalError(
                        f"Trino finds {known[0][0]} in {target.name} and our reading of its metadata does not: nothing "
                        "was removed; please report it"
                    )

    def _carry_tag(self, target: Target) -> None:
        tag = target.tag
        if tag is not None:
            _insist(lambda: self.lake.carry_tag(target.name, tag))

    def _timed(self, probe: str | None) -> upkeep.Ran | None:
        if probe is None:
            return None
        try:
            return upkeep.run(self._login, probe)
        except LakehouseError:  # it only measures
            return None

    def _execute(self, target: Target, what: str, session: Mapping[str, str] | None = None) -> None:
        upkeep.run(self._login, f"ALTER TABLE {_quoted(self.settings, target.name)} {what}", session)

    @property
    def _login(self) -> Any:
        return self.settings.trino_as("admin")


class _BuildRunsError(LakehouseError):
    """A dbt build writes to the models, so none of them is maintained now."""


def compaction(action: Compact) -> str:
    """What Trino is told for a compaction, after the table's name."""
    conditions = [action.condition] if action.condition else []
    if action.paths:
        conditions.append(f'"$path" IN ({", ".join(map(trino.literal, action.paths))})')
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    # The files are chosen; Trino must not choose again.
    return f"EXECUTE optimize(file_size_threshold => '1PB'){where}"


def _writing(settings: Settings, target: Target) -> dict[str, str]:
    """What a compaction runs under: one writer, so that it leaves one file."""
    return {
        "max_writer_task_count": "1",
        "task_min_writer_count": "1",
        "task_max_writer_count": "1",
        "scale_writers": "false",
        f"{settings.catalog.name}.target_max_file_size": f"{target.policy.target_file_bytes}B",
    }


def _plan(settings: Settings, target: Target, state: TableState, now: datetime) -> list[Action]:
    found = maintenance_plan.plan(state, target.policy, now, statement_bytes=settings.maintenance.statement_bytes)
    return [action for action in found if target.analyzed or not isinstance(action, Analyze)]


def _probe(settings: Settings, target: Target, state: TableState) -> str | None:
    """A query that reads one column of the partition with the most files, or of a whole small table."""
    if target.probed is None or not state.partitions:
        return None

    def most(partition: PartitionState) -> tuple[int, str]:
        return partition.files, partition.name

    partition = max(state.partitions, key=most)
    where = f" WHERE {partition.condition}" if partition.condition else ""
    if not where and state.live_bytes > _PROBED_BYTES:
        return None
    return f'SELECT checksum("{target.probed}") FROM {_quoted(settings, target.name)}{where}'


def _running(settings: Settings) -> list[str]:
    rows = trino.query(
        settings.trino_as("admin"), "SELECT query FROM system.runtime.queries WHERE state IN ('RUNNING', 'FINISHING')"
    )
    return [statement for (statement,) in rows]


def _writers(settings: Settings, target: Target, running: Sequence[str]) -> tuple[str, ...]:
    namespace, _, name = target.name.partition(".")
    schema = f"{settings.prefix}{namespace}"
    writing = [each for each in running if writes_to(each, settings.catalog.name, schema, name)]
    return tuple(" ".join(each.split())[:80] for each in writing)


def _trino_now(settings: Settings) -> datetime:
    ((now,),) = trino.query(settings.trino_as("admin"), "SELECT current_timestamp(6)")
    return now.astimezone(UTC)


def _record(settings: Settings, run_id: str, done: Sequence[Done]) -> None:
    """Write down what was done to a table, in one commit."""
    if not done:
        return
    lake = Upkeep(settings)
    table = lake.load(MAINTENANCE_RUNS)
    rows = [asdict(each) | {"run_id": run_id, "ended_date": each.ended_at.date()} for each in done]
    commit_id = uuid.uuid4().hex
    files = lake.write_rows(table, MAINTENANCE_RUNS, rows, commit_id)
    lake.append(MAINTENANCE_RUNS, files, expected={}, properties={}, run_id=commit_id, summary={})


def _manifest(settings: Settings) -> Mapping[str, Any] | None:
    try:
        return orjson.loads((transform.target_directory(settings) / "manifest.json").read_bytes())
    except FileNotFoundError:
        return None


def _is_personal(column: Mapping[str, Any]) -> bool:
    return bool(column.get("config", {}).get("meta", {}).get("pii") or column.get("meta", {}).get("pii"))


def _quoted(settings: Settings, name: str, suffix: str = "") -> str:
    namespace, _, table = name.partition(".")
    return f'{settings.catalog.name}."{settings.prefix}{namespace}"."{table}{suffix}"'


def _insist(do: Callable[[], _Answer]) -> _Answer:
    """Do something that may be done again until it works, for some seconds."""
    for attempt in range(_ATTEMPTS - 1):
        try:
            return do()
        except (TransientError, CommitStateUnknownError):
            time.sleep(_FIRST_WAIT_SECONDS * 2**attempt)
    return do()
