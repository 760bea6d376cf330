"""Spark Structured Streaming, tuned as well as we know: no shuffle, flat columns, cheap codec, quiet collector.

Arguments: table, directory for the checkpoint.
"""

import sys

from pyspark.sql.functions import col, current_timestamp, from_json, lit, to_date

from bench.contenders.spark_session import session
from bench.contenders.stock_spark import EVENT


def main(table: str, checkpoint: str) -> None:
    """Drain the topic into the table."""
    spark, settings = session("-XX:+UseParallelGC", spark_sql_shuffle_partitions="2")
    messages = (
        spark.readStream.format("kafka")
        .option("kafka.bootstrap.servers", settings.kafka.bootstrap_servers)
        .option("subscribe", settings.user_actions_topic)
        .option("startingOffsets", "earliest")
        .option("kafka.fetch.max.bytes", str(64 * 1024 * 1024))
        .option("kafka.max.partition.fetch.bytes", str(8 * 1024 * 1024))
        .option("kafka.max.poll.records", "20000")
        .load()
    )
    event = from_json(col("value").cast("string"), EVENT)
    rows = messages.withColumn("event", event).select(
        col("event.timestamp").alias("event_datetime"),
        to_date("event.timestamp").alias("event_date"),
        col("event.event_name"),
        col("event.user_identifiers.id").alias("user_id"),
        col("event.user_identifiers.platform"),
        col("event.product_information.name").alias("product_name"),
        col("event.product_information.SKU").alias("sku"),
        lit(None).cast("string").alias("unknown_fields"),
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
        .option("distribution-mode", "none")
        .option("fanout-enabled", "true")
        .option("checkpointLocation", checkpoint)
        .toTable(f"lake.{table}")
        .awaitTermination()
    )
    spark.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
