"""The Iceberg REST catalog of the local stack: Iceberg's REST servlet and JDBC catalog, on PostgreSQL."""

import http.client
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

from lakehouse.errors import ServerUnavailableError, StackError
from lakehouse.settings import Settings
from lakehouse.stack import artifacts
from lakehouse.stack.server import Server

MAIN_CLASS = "org.apache.iceberg.rest.RestCatalogServer"
DATABASE = "catalog"

_HOST = "127.0.0.1"

_JVM_FLAGS = (
    "-Xms32m",
    "-Xmx192m",
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",  # halves the start, and no request here is hot
    "-XX:+IgnoreUnrecognizedVMOptions",  # the next flag is newer than Java 17
    "--sun-misc-unsafe-memory-access=allow",  # for the cache that Iceberg uses
)

# MinIO takes any role: what the credentials may do is the caller's policy cut down to the table's location.
_ROLE = "arn:aws:iam::000000000000:role/lakehouse"


def compile_class(settings: Settings, target: Path) -> None:
    """Compile the server's Java class into `target`; needs no JDK, for the compiler is a jar of the part `catalog`.

    Raises:
        StackError: the class does not compile.
    """
    jars = sorted(artifacts.part_directory(settings, "catalog").glob("*.jar"))
    sources = sorted(artifacts.REST_CATALOG_SOURCE.glob("*.java"))
    target.mkdir(parents=True, exist_ok=True)
    classpath = ":".join(map(str, jars))
    java = artifacts.java(settings)
    command: list[str | Path] = [java, "-cp", classpath, "org.eclipse.jdt.internal.compiler.batch.Main"]
    command += ["-source", "17", "-target", "17", "-proc:none", "-nowarn", "-encoding", "UTF-8"]
    command += ["-classpath", classpath, "-d", target, *sources]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    if result.returncode:
        raise StackError(f"the REST catalog's class does not compile:\n{result.stdout}{result.stderr}")


def server(settings: Settings) -> Server:
    """Describe the REST catalog server."""
    port = urlsplit(settings.catalog.uri).port or 18181
    return Server(
        name="catalog",
        profile="core",
        version=artifacts.ICEBERG_CATALOG_VERSION,
        port=port,
        url=settings.catalog.uri,
        command=(
            str(artifacts.java(settings)),
            *_JVM_FLAGS,
            "-cp",
            f"{artifacts.catalog_classes(settings)}:{artifacts.classpath(settings, 'catalog')}",
            MAIN_CLASS,
        ),
        environment={
            "CATALOG_HOST": _HOST,
            "CATALOG_PORT": str(port),
            "CATALOG_NAME": settings.catalog.name,
            "CATALOG_WAREHOUSE": f"s3://{settings.s3.warehouse_bucket}",
            "CATALOG_CLIENT_ID": settings.catalog.client_id,
            "CATALOG_CLIENT_SECRET": settings.catalog.client_secret.get_secret_value(),
            "CATALOG_JDBC_URL": f"jdbc:postgresql://{settings.postgres.host}:{settings.postgres.port}/{DATABASE}",
            "CATALOG_JDBC_USER": settings.postgres.user,
            "CATALOG_JDBC_PASSWORD": settings.postgres.password.get_secret_value(),
            "CATALOG_S3_ENDPOINT": settings.s3.endpoint,
            "CATALOG_S3_REGION": settings.s3.region,
            "CATALOG_S3_ACCESS_KEY": settings.s3.access_key,
            "CATALOG_S3_SECRET_KEY": settings.s3.secret_key.get_secret_value(),
            "CATALOG_S3_ROLE_ARN": _ROLE,
        },
        after=("postgres", "minio"),
        probe=lambda: _probe(_HOST, port),
        settle=lambda: _apply_tables(settings),
        start_seconds=60,
        memory_bytes=200_000_000,
    )


def _apply_tables(settings: Settings) -> None:
    # Heavy, and each launch of any server imports this module.
    from lakehouse import environment  # noqa: PLC0415

    environment.apply(settings)


def _probe(host: str, port: int) -> None:
    connection = http.client.HTTPConnection(host, port, timeout=10)
    try:
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        if answer.status != http.HTTPStatus.OK:
            raise ServerUnavailableError(f"the REST catalog answers {answer.status}: {answer.read().decode()}")
    finally:
        connection.close()
