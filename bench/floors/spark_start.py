"""Only start Spark and stop it: what every contender on Spark pays once."""

from bench.contenders.spark_session import session


def main() -> None:
    """Open a session and close it."""
    spark, _ = session("-XX:+UseSerialGC")
    spark.range(1).collect()
    spark.stop()


if __name__ == "__main__":
    main()
