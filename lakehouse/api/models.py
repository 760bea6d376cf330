"""What is asked and answered, with an example of each."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from fastapi import Header, Path
from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints

from lakehouse import callers

# Both patterns keep out `~`, by which Airflow means every DAG, and whatever could leave the path.
DagId = Annotated[callers.DagId, Path(description="The DAG's id.", examples=["transform"])]
RunId = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.:+~-]{0,249}$"),
    Path(description="The run's id.", examples=["api__4f1d2c3b5a697887"]),
]
IdempotencyKey = Annotated[
    Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:-]{1,128}$")] | None,
    Header(
        description="Chosen by the caller for one run: the same key never starts a second one. A UUID is a good key.",
        examples=["nightly-2026-01-31"],
    ),
]


class RunState(StrEnum):
    """How far a run is."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCESS = "success"
    FAILED = "failed"


class _Answer(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class Dag(_Answer):
    """A DAG."""

    dag_id: str = Field(examples=["transform"])
    description: str | None = Field(examples=["events.user_actions → marts, by dbt"])
    is_paused: bool = Field(description="The runs of a paused DAG wait.", examples=[False])
    schedule: str | None = Field(
        description="In words; null when only triggers start it.", examples=["Every 5 minutes"]
    )
    next_run_at: datetime | None = Field(examples=["2026-01-31T12:05:00Z"])
    tags: tuple[str, ...] = Field(examples=[["dbt", "marts"]])


class DagDetails(Dag):
    """A DAG with what its runs can be given."""

    params: Mapping[str, Mapping[str, Any]] = Field(
        description="By name: `value` is the default and `schema` the JSON schema that a value has to fit.",
        examples=[
            {
                "full_refresh": {
                    "value": False,
                    "schema": {"type": "boolean", "title": "Full refresh"},
                    "description": "Build the models anew.",
                }
            }
        ],
    )


class Dags(BaseModel):
    """The DAGs of a caller."""

    dags: list[Dag]


class Run(_Answer):
    """A run of a DAG."""

    dag_id: str = Field(examples=["transform"])
    run_id: str = Field(examples=["api__4f1d2c3b5a697887"])
    state: RunState = Field(examples=["running"])
    run_type: str = Field(description="Who started it, as Airflow puts it.", examples=["manual"])
    conf: Mapping[str, Any] = Field(description="What it was given.", examples=[{"full_refresh": False}])
    note: str | None = Field(examples=["by caller nightly, request 8c0e5b7a7d1f4a55"])
    queued_at: datetime | None = Field(examples=["2026-01-31T12:00:00Z"])
    started_at: datetime | None = Field(examples=["2026-01-31T12:00:01Z"])
    ended_at: datetime | None = Field(examples=[None])


class Runs(BaseModel):
    """A page of a DAG's runs, the newest first."""

    runs: list[Run]
    total: int = Field(description="How many there are on all pages.", examples=[1])
    limit: int = Field(examples=[50])
    offset: int = Field(examples=[0])


class Task(_Answer):
    """A task of a run."""

    task_id: str = Field(examples=["build"])
    map_index: int = Field(description="Which one of a mapped task; -1 of any other.", examples=[-1])
    state: str = Field(description="Airflow's word for it; `none` before it is scheduled.", examples=["running"])
    try_number: int = Field(description="Of the latest attempt, from 1; 0 before the first.", examples=[1])
    started_at: datetime | None = Field(examples=["2026-01-31T12:00:02Z"])
    ended_at: datetime | None = Field(examples=[None])
    log_url: str = Field(
        description="The page of Airflow that shows the log of the latest attempt.",
        examples=["http://127.0.0.1:18088/dags/transform/runs/api__4f1d2c3b5a697887/tasks/build?try_number=1"],
    )


class RunDetails(Run):
    """A run with its tasks."""

    tasks: list[Task]


class RunRequest(BaseModel):
    """What to start a run with."""

    model_config = ConfigDict(extra="forbid")

    conf: dict[str, JsonValue] = Field(
        default_factory=dict[str, JsonValue],
        description="Values for the DAG's params, by name; `GET /dags/{dag_id}` tells which there are.",
        examples=[{"full_refresh": False}],
    )


class Left(_Answer):
    """One thing that a stopped run has left, or that can't be looked at from here."""

    kind: Literal["process", "spark_application", "unseen"] = Field(examples=["process"])
    what: str = Field(examples=["java, pid 4711"])
    host: str = Field(description="The machine that it is on.", examples=["worker-1"])
    since: datetime | None = Field(examples=["2026-01-31T12:00:03Z"])


class Stopped(BaseModel):
    """A run that was stopped, or had ended before."""

    run: Run
    gone: bool = Field(description="Whether its tasks and its Spark job are seen to be gone.", examples=[True])
    left: list[Left] = Field(description="What is not gone, or can't be looked at; empty when `gone`.", examples=[[]])
    waited_seconds: float = Field(description="How long that took.", examples=[3.4])


class Health(BaseModel):
    """That all is well."""

    status: Literal["ok", "ready"] = Field(examples=["ok"])
