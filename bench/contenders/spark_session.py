"""A Spark session with the Iceberg catalog, as its documentation sets one up."""

import os

from pyspark.sql import SparkSession

from lakehouse.adapters.spark import open_catalog
from lakehouse.settings import PROJECT_ROOT, Settings, get_settings
from lakehouse.stack import artifacts

LOGGING = PROJECT_ROOT / "spark" / "log4j2.properties"


def session(java_options: str = "", **options: str) -> tuple[SparkSession, Settings]:
    """Open a session on all cores; names of `options` have `_` for `.`."""
    settings = artifacts.with_local_spark(get_settings())
    os.environ["JAVA_HOME"] = str(settings.spark.java_home)
    builder = (
        SparkSession.builder.master("local[*]")
        .config("spark.driver.memory", "2g")
        .config("spark.driver.extraJavaOptions", f"-Dlog4j2.configurationFile={LOGGING} {java_options}")
        .config("spark.driver.extraClassPath", f"{settings.spark.jars_directory}/*")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.session.timeZone", "UTC")
    )
    for name, value in options.items():
        builder = builder.config(name.replace("_", "."), value)
    spark = builder.getOrCreate()
    open_catalog(spark, settings)
    return spark, settings
