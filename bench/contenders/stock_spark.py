"""Stock Spark Structured Streaming, as the documentation of both projects shows it.

Kafka source, `from_json` into a struct column, Iceberg sink. Arguments: table, directory for the checkpoint.
"""

import sys

from pyspark.sql.functions import col, current_timestamp, from_json, to_date

from bench.contenders.spark_session import session

EVENT = (
    "timestamp TIMESTAMP, event_name STRING, user_identifiers STRUCT<platform: STRING, id: STRING>, "
    "product_information STRUCT<name: STRING, SKU: STRING>"
)


def main(table: str, checkpoint: str) -> None:
    """Drain the topic into the table."""
    spark, settings = session()
    messages = (
        spark.readStream.format("kafka")
        .option("kafka.bootstrap.servers", settings.kafka.bootstrap_servers)
        .option("subscribe", settings.user_actions_topic)
        .option("startingOffsets", "earliest")
        .load()
    )
    rows = messages.withColumn("event", from_json(col("value").cast("string"), EVENT)).select(
        "event",
        to_date("event.timestamp").alias("event_date"),
        col("topic").alias("kafka_topic"),
        col("partition").alias("kafka_partition"),
        col("offset").alias("kafka_offset"),
        col("timestamp").alias("kafka_timestamp"),
        current_timestamp().alias("ingested_at"),
    )
    (
        rows.writeStream.format("iceberg")
        .outputMode("append")
        .trigger(availableNow=True)
        .option("fanout-enabled", "true")
        .option("checkpointLocation", checkpoint)
        .toTable(f"lake.{table}")
        .awaitTermination()
    )
    spark.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
