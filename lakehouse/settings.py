"""Every setting of the platform, and the only reader of the environment.

One schema serves the local stack, compose and Kubernetes; only the values differ.
A setting `kafka.bootstrap_servers` is read from `LAKEHOUSE_KAFKA__BOOTSTRAP_SERVERS`.
On one machine the secrets come from `<home>/credentials.env`, which `lakehouse stack up` generates with mode 0600;
the environment wins over that file.
"""

import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings import SettingsError as UnreadableSettingError

from lakehouse.errors import SettingsError

PROJECT_ROOT = Path(__file__).resolve().parents[1]
NO_SECRET = SecretStr("")
STANDARD_OUTPUT: Final = Path("-")


def _absolute(path: Path) -> Path:
    return path if path == STANDARD_OUTPUT else path.expanduser().absolute()


Place = Annotated[Path, AfterValidator(_absolute)]
"""A path that means the same place in every process, wherever that one runs."""


class KafkaSettings(BaseModel):
    """Where events come from."""

    bootstrap_servers: str = Field("127.0.0.1:19092", description="Kafka brokers, `host:port[,host:port]`.")
    user_actions_topic: str = Field("user-actions", description="Topic with one user action per message.")
    more_user_actions_topics: str = Field(
        "", description="Further topics whose messages go into the same tables, separated by commas."
    )
    user_actions_partitions: int = Field(4, gt=0, description="Partitions a topic gets when `produce` creates it.")
    file_notifications_topic: str = Field(
        "file-notifications", description="Topic with one announced file per message."
    )
    trino_queries_topic: str = Field(
        "trino-queries", description="Topic that Trino tells its queries to; one for all environments, without prefix."
    )


class S3Settings(BaseModel):
    """The object store that holds the warehouse."""

    endpoint: str = Field("http://127.0.0.1:19000", description="S3 endpoint.")
    region: str = Field("us-east-1", description="S3 region.")
    access_key: str = Field("lakehouse", description="Access key of the pipeline's user.")
    secret_key: SecretStr = Field(NO_SECRET, description="Secret key of the pipeline's user.")
    warehouse_bucket: str = Field("warehouse", description="Bucket of the Iceberg tables.")
    archive_bucket: str = Field(
        "archive", description="Bucket of old events; may lie on cheaper storage, behind the same endpoint."
    )
    user_events_bucket: str = Field(
        "user-events", description="Bucket that CSV files of user actions are dropped into."
    )
    ads_bucket: str = Field("ad-data", description="Bucket of ad data: what the API returned, and the archive.")
    file_drop_bucket: str = Field(
        "file-drop", description="Bucket of announced files; a notification that names another one is set aside."
    )


class CatalogSettings(BaseModel):
    """The Iceberg REST catalog."""

    uri: str = Field("http://127.0.0.1:18181", description="REST catalog address.")
    name: str = Field("lake", description="Name of the catalog in Spark and Trino.")
    client_id: str = Field("lakehouse", description="OAuth2 client id.")
    client_secret: SecretStr = Field(NO_SECRET, description="OAuth2 client secret.")


class PostgresSettings(BaseModel):
    """The PostgreSQL server; databases `lakehouse` (ours), `catalog` and `airflow` live in it."""

    host: str = Field("127.0.0.1", description="PostgreSQL host.")
    port: int = Field(15432, description="PostgreSQL port.")
    user: str = Field("lakehouse", description="User of the pipeline.")
    password: SecretStr = Field(NO_SECRET, description="Password of that user.")
    database: str = Field("lakehouse", description="Database of the pipeline.")


TrinoRole = Literal["admin", "ingest", "transform", "analyst"]
"""The users of Trino; what each may do stands in `trino/etc/rules.json` and is told in docs/access.md."""


class TrinoSettings(BaseModel):
    """The SQL engine; each of its users has a password of its own."""

    host: str = Field("127.0.0.1", description="Trino host, as its certificate names it.")
    port: int = Field(18080, description="Trino port, for HTTPS unless `tls` is off.")
    tls: bool = Field(
        True, description="Speak TLS and log in with a password; off, only the user's name is sent, over plain HTTP."
    )
    ca_file: Path | None = Field(
        None,
        description="PEM file with the authority that signed Trino's certificate; unset: that of the local stack, if "
        "any, else the public ones.",
    )
    admin_password: SecretStr = Field(NO_SECRET, description="Password of `admin`, who may do everything.")
    ingest_password: SecretStr = Field(NO_SECRET, description="Password of `ingest`, who writes events and quarantine.")
    transform_password: SecretStr = Field(NO_SECRET, description="Password of `transform`, as whom dbt builds.")
    analyst_password: SecretStr = Field(NO_SECRET, description="Password of `analyst`, who reads the marts.")


@dataclass(frozen=True, slots=True)
class TrinoLogin:
    """How to reach Trino as one of its users; see `Settings.trino_as`.

    Attributes:
        password: None where no password is sent.
        ca_file: whom to trust; None trusts the public authorities.
    """

    host: str
    port: int
    user: TrinoRole
    tls: bool
    password: SecretStr | None
    ca_file: Path | None

    @property
    def url(self) -> str:
        """Where Trino is."""
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}"


class AirflowSettings(BaseModel):
    """Airflow's API server; the defaults are the login of the local stack only."""

    url: str = Field("http://127.0.0.1:18088", description="Airflow API server and UI.")
    public_url: str = Field(
        "", description="Address at which people open the UI, as in links to logs; unset: `LAKEHOUSE_AIRFLOW__URL`."
    )
    user: str = Field("airflow", description="UI and API user.")
    password: SecretStr = Field(SecretStr("airflow"), description="Password of that user.")

    @property
    def pages_url(self) -> str:
        """Where people open the UI, without a slash at the end."""
        return (self.public_url or self.url).rstrip("/")


class ApiSettings(BaseModel):
    """The DAG control API; who may call it stands in a file of its own, which `lakehouse api keys` writes."""

    url: str = Field("http://127.0.0.1:18086", description="Address that it listens at.")
    jwt_secret: SecretStr = Field(
        NO_SECRET, description="Secret that tokens are signed with, of 32 bytes or more; unset: it takes keys only."
    )
    callers_file: Place | None = Field(
        None, description="File of its callers; unset: `api-callers.json` in `LAKEHOUSE_HOME`."
    )
    audit_file: Place | None = Field(
        None,
        description="File of who did what to which run, as lines of JSON; `-` is standard output; unset: "
        "`logs/api-audit.jsonl` in `LAKEHOUSE_HOME`.",
    )
    audit_file_bytes: int = Field(10 << 20, gt=0, description="Size at which that file is closed for a new one.")
    audit_files: int = Field(20, gt=0, description="How many of the closed ones are kept.")
    requests_per_minute: int = Field(120, gt=0, description="Requests that one caller may send in any minute.")
    refused_logins_per_minute: int = Field(
        10, gt=0, description="Refused logins in any minute from one address, after which 429 answers the next ones."
    )
    request_timeout_seconds: float = Field(
        15, gt=0, description="How long a request may take, stopping a run aside: to arrive, and then to be answered."
    )
    stop_seconds: float = Field(60, gt=0, description="How long stopping a run waits at most until all of it is gone.")
    sees_processes: bool = Field(
        True,
        description="Whether it can look at the processes of tasks that ran on a machine of its own name; set it to "
        "false where process ids are its own, as in a container, or tasks run as another user.",
    )
    drain_seconds: float = Field(
        2, ge=0, description="How long it still answers after SIGTERM, not ready any more, before it ends."
    )
    spark_masters: str = Field(
        "", description="Spark masters that callers may name beside `local[…]`, separated by commas."
    )
    spark_master_page: str = Field(
        "",
        description="Address of the standalone Spark master's own pages, asked whether a stopped run's application "
        "is gone; unset: nobody is asked.",
    )


class SparkSettings(BaseModel):
    """How Spark runs the ingest tasks."""

    master: str = Field("local[*,3]", description="Spark master: `local[*,3]`, `spark://…` or `k8s://…`.")
    driver_memory: str = Field("1g", description="Heap of the driver; with a local master the tasks share it.")
    executor_memory: str = Field("1g", description="Heap of each executor of a cluster.")
    executor_python: str = Field(
        "",
        description="Python of the executors, with this package; unset: the driver's path, for one image or machine.",
    )
    jars_directory: Path | None = Field(
        None,
        description="Jars Spark needs, at this path for driver and executors; unset: those of the local stack, if any, "
        "else the image has them among Spark's own.",
    )
    java_home: Place | None = Field(None, description="Java for the driver; unset: that of the local stack, if any.")
    aot_cache: Path | None = Field(
        None,
        description="Java's ahead-of-time cache of the driver, which halves the work of a start; "
        "unset: that of the local stack, if any.",
    )
    options: dict[str, str] = Field(
        {},
        description="More of Spark's own configuration as a JSON object, which wins over ours, such as "
        '`{"spark.executor.instances": "4"}`; [what Kubernetes needs](architecture.md#a-cluster-by-settings).',
    )


class IngestSettings(BaseModel):
    """How much one ingest run takes on."""

    rows_per_task: int = Field(500_000, gt=0, description="Offsets one Spark task reads at most, in rows.")
    rows_per_run: int = Field(20_000_000, gt=0, description="Offsets one commit takes at most, in rows.")
    rows_per_file: int = Field(1_000_000, gt=0, description="Rows of one data file at most.")
    commit_seconds: float = Field(1.0, gt=0, description="How often `ingest follow` commits, in seconds.")


class FileSettings(BaseModel):
    """How much one Spark job of `files run` takes on."""

    files_per_job: int = Field(200, gt=0, description="Announced files that one Spark job checks at most.")


class AdsSettings(BaseModel):
    """The ad API, and how its impressions are read."""

    api_url: str = Field("http://127.0.0.1:18085", description="Address of the ad API.")
    api_token: SecretStr = Field(NO_SECRET, description="Token that the ad API knows us by.")
    account: str = Field("shop", pattern=r"^[\w.-]+$", description="Account at the ad API whose impressions are read.")
    page_records: int = Field(5_000, gt=0, description="Records that one request asks for.")
    overlap_minutes: int = Field(
        15, ge=0, description="How much of the time before is read again, for what the API shows late, in minutes."
    )


class CsvSettings(BaseModel):
    """How much one commit of `csv run` takes on, and how far it looks."""

    files_per_commit: int = Field(100, gt=0, description="Files that one commit brings at most.")
    bytes_per_commit: int = Field(4 << 30, gt=0, description="Bytes of files that one commit brings, or one file.")
    days_back: int = Field(7, ge=0, description="Days before the date that are looked at for corrected files, in days.")


class MaintenanceSettings(BaseModel):
    """How much one statement of maintenance takes on."""

    statement_bytes: int = Field(
        512 << 20, gt=0, description="Bytes of data files that one statement rewrites at most; Trino holds them sorted."
    )


class ExporterSettings(BaseModel):
    """The health exporter; it only reads, so the accounts it is given need no right to write."""

    url: str = Field("http://127.0.0.1:18090", description="Address that it listens at.")
    timeout_seconds: float = Field(
        10, gt=0, description="How long a look may take at all else than ledgers, small files and buckets."
    )
    refresh_seconds: float = Field(15, gt=0, description="Time between two looks at Kafka and at each server.")
    tables_seconds: float = Field(
        60, gt=0, description="Time between two looks at tables, rows, marts, DAGs and archives."
    )
    audit_seconds: float = Field(
        300,
        gt=0,
        description="Time between two audits of a ledger, and two counts of small files; nine times what the last one "
        "took, if that is more.",
    )
    listing_seconds: float = Field(900, gt=0, description="Time between two listings of the buckets.")
    audit_timeout_seconds: float = Field(
        3600, gt=0, description="How long an audit of a ledger, a count of small files or a listing may take."
    )
    freshness_target_seconds: float = Field(
        60,
        gt=0,
        description="How long an event may wait for its table, as alerts see it; 600 where only the DAG ingests.",
    )
    build_target_seconds: float = Field(
        7200, gt=0, description="How long a row may wait for what is built or collected by the hour, such as a mart."
    )


class PrometheusSettings(BaseModel):
    """Prometheus of the local stack."""

    url: str = Field("http://127.0.0.1:18091", description="Address that it listens at.")
    scrape_seconds: int = Field(
        15, gt=0, description="How often it asks for numbers and looks at its rules, in seconds."
    )
    rules_directory: Place | None = Field(
        None, description="Directory with the rules, `*.yml`; unset: `compose/prometheus/rules`."
    )
    kept_days: int = Field(15, gt=0, description="How long numbers are kept, in days.")


class AlertmanagerSettings(BaseModel):
    """Alertmanager of the local stack, and whom it tells; a channel without settings is left out."""

    url: str = Field("http://127.0.0.1:18092", description="Address that it listens at, which messages link to.")
    runbooks_url: str = Field(
        "",
        description="Address under which people read this project's files, put before `docs/runbooks.md`; "
        "unset: the clone on this machine.",
    )
    group_wait_seconds: int = Field(30, gt=0, description="How long a new group of alerts waits for more, in seconds.")
    group_interval_seconds: int = Field(
        300, gt=0, description="How long a group waits until it tells what changed, in seconds."
    )
    email_to: str = Field("", description="Who gets mail, separated by commas.")
    email_from: str = Field("", description="Sender of the mail.")
    email_smarthost: str = Field("", description="Mail server, `host:port`.")
    email_user: str = Field("", description="User at the mail server; unset: no login.")
    email_password: SecretStr = Field(NO_SECRET, description="Password of that user.")
    email_require_tls: bool = Field(True, description="Send mail only over a connection that is encrypted.")
    slack_webhook: SecretStr = Field(NO_SECRET, description="Address of the Slack webhook.")
    pagerduty_routing_key: SecretStr = Field(NO_SECRET, description="Integration key of PagerDuty's Events API v2.")
    pagerduty_url: str = Field(
        "https://events.pagerduty.com/v2/enqueue",
        description="PagerDuty's Events API; accounts in Europe have another.",
    )

    @model_validator(mode="after")
    def _mail_is_whole(self) -> Self:
        mail = (self.email_to, self.email_from, self.email_smarthost)
        if any(mail) and not all(mail):
            raise ValueError("email_to, email_from and email_smarthost go together: set all of them, or none")
        return self


class StackSettings(BaseModel):
    """Secrets of the servers on one machine; generated, used by `lakehouse stack` alone."""

    s3_root_password: SecretStr = Field(NO_SECRET, description="Root secret of MinIO.")
    postgres_superuser_password: SecretStr = Field(NO_SECRET, description="Password of PostgreSQL's superuser.")
    airflow_jwt_secret: SecretStr = Field(NO_SECRET, description="Secret that Airflow's parts sign tokens with.")
    airflow_secret_key: SecretStr = Field(NO_SECRET, description="Session secret of Airflow's UI.")
    airflow_fernet_key: SecretStr = Field(NO_SECRET, description="Key that encrypts Airflow's Connections.")
    trino_shared_secret: SecretStr = Field(NO_SECRET, description="Secret for Trino's internal communication.")


def _default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lakehouse"


class Settings(BaseSettings):
    """All settings; see `get_settings`."""

    model_config = SettingsConfigDict(
        env_prefix="LAKEHOUSE_", env_nested_delimiter="__", extra="ignore", hide_input_in_errors=True
    )

    home: Place = Field(PROJECT_ROOT / ".lakehouse", description="State of the local stack: data, logs, credentials.")
    cache: Place = Field(
        default_factory=_default_cache,
        description="Downloaded and built servers, shared by every clone (default: `~/.cache/lakehouse`).",
    )
    java_home: Path | None = Field(None, description="Java 24 or newer to use instead of the bundled one.")
    ca_bundle: Place | None = Field(
        default_factory=lambda: Path(value) if (value := os.environ.get("SSL_CERT_FILE")) else None,
        description="PEM file with the certificate authorities to trust in downloads (default: `SSL_CERT_FILE`).",
    )
    maven_repository: str = Field(
        "", description="Address of the Maven repository to download jars from; unset: the public one."
    )
    prefix: str = Field(
        "",
        pattern=r"^([a-z][a-z0-9_]*_)?$",
        description="Put before every topic and namespace, so that several environments share one set of servers.",
    )

    run: str = Field(
        "",
        description="The run and task of Airflow that a command works for, `dag/run/task`; the DAGs set it, so that "
        "its processes and its Spark application can be found.",
    )

    kafka: KafkaSettings = KafkaSettings()  # pyright: ignore[reportCallIssue]
    s3: S3Settings = S3Settings()  # pyright: ignore[reportCallIssue]
    catalog: CatalogSettings = CatalogSettings()  # pyright: ignore[reportCallIssue]
    postgres: PostgresSettings = PostgresSettings()  # pyright: ignore[reportCallIssue]
    trino: TrinoSettings = TrinoSettings()  # pyright: ignore[reportCallIssue]
    airflow: AirflowSettings = AirflowSettings()  # pyright: ignore[reportCallIssue]
    api: ApiSettings = ApiSettings()  # pyright: ignore[reportCallIssue]
    spark: SparkSettings = SparkSettings()  # pyright: ignore[reportCallIssue]
    ingest: IngestSettings = IngestSettings()  # pyright: ignore[reportCallIssue]
    files: FileSettings = FileSettings()  # pyright: ignore[reportCallIssue]
    ads: AdsSettings = AdsSettings()  # pyright: ignore[reportCallIssue]
    csv: CsvSettings = CsvSettings()  # pyright: ignore[reportCallIssue]
    maintenance: MaintenanceSettings = MaintenanceSettings()  # pyright: ignore[reportCallIssue]
    exporter: ExporterSettings = ExporterSettings()  # pyright: ignore[reportCallIssue]
    prometheus: PrometheusSettings = PrometheusSettings()  # pyright: ignore[reportCallIssue]
    alertmanager: AlertmanagerSettings = AlertmanagerSettings()  # pyright: ignore[reportCallIssue]
    stack: StackSettings = StackSettings()  # pyright: ignore[reportCallIssue]

    @property
    def credentials_file(self) -> Path:
        """The generated secrets of this machine's stack, mode 0600."""
        return self.home / "credentials.env"

    @property
    def api_callers_file(self) -> Path:
        """Who may call the DAG control API."""
        return self.api.callers_file or self.home / "api-callers.json"

    @property
    def api_audit_file(self) -> Path:
        """Who did what by the DAG control API; `-` is standard output."""
        return self.api.audit_file or self.home / "logs" / "api-audit.jsonl"

    @property
    def own_ca_file(self) -> Path:
        """The certificate of this machine's own authority; there once a stack was started."""
        return self.home / "tls" / "ca.pem"

    def trino_as(self, role: TrinoRole) -> TrinoLogin:
        """How to reach Trino as one of its users."""
        trino = self.trino
        passwords: dict[TrinoRole, SecretStr] = {
            "admin": trino.admin_password,
            "ingest": trino.ingest_password,
            "transform": trino.transform_password,
            "analyst": trino.analyst_password,
        }
        own = self.own_ca_file if self.own_ca_file.exists() else None
        return TrinoLogin(
            host=trino.host,
            port=trino.port,
            user=role,
            tls=trino.tls,
            password=passwords[role] if trino.tls else None,
            ca_file=trino.ca_file or own,
        )

    @property
    def user_actions_topic(self) -> str:
        """Topic of the user actions that `produce` sends to, prefix included."""
        return f"{self.prefix}{self.kafka.user_actions_topic}"

    @property
    def file_notifications_topic(self) -> str:
        """Topic of announced files, prefix included."""
        return f"{self.prefix}{self.kafka.file_notifications_topic}"

    @property
    def user_actions_topics(self) -> tuple[str, ...]:
        """Every topic that feeds the user actions, prefix included."""
        more = (name.strip() for name in self.kafka.more_user_actions_topics.split(","))
        return (self.user_actions_topic, *(f"{self.prefix}{name}" for name in more if name))


def load_settings() -> Settings:
    """Read the settings from the environment and this machine's credentials file.

    Raises:
        SettingsError: a value does not fit; the message names each setting.
    """
    try:
        home = Settings().home  # pyright: ignore[reportCallIssue]  # the file with the secrets lies in the home that the environment names
        return Settings(_env_file=home / "credentials.env")  # pyright: ignore[reportCallIssue]
    except UnreadableSettingError as error:
        raise SettingsError(
            f"{error}: a group's settings are set one by one, as LAKEHOUSE_KAFKA__…, "
            "and LAKEHOUSE_SPARK__OPTIONS is a JSON object"
        ) from error
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False)]
        raise SettingsError(
            "these settings don't fit (environment LAKEHOUSE_… or credentials.env): " + "; ".join(lines)
        ) from None


@functools.cache
def get_settings() -> Settings:
    """The settings of this program run, read once."""
    return load_settings()
