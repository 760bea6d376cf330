"""Only read the topic, by Spark's Kafka source: the rows go nowhere."""

from bench.contenders.spark_session import session


def main() -> None:
    """Read the topic to its end."""
    spark, settings = session("-XX:+UseSerialGC")
    (
        spark.read.format("kafka")
        .option("kafka.bootstrap.servers", settings.kafka.bootstrap_servers)
        .option("subscribe", settings.user_actions_topic)
        .option("minPartitions", "40")
        .load()
        .write.format("noop")
        .mode("overwrite")
        .save()
    )
    spark.stop()


if __name__ == "__main__":
    main()
