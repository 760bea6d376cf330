"""Stock `foreachBatch` with two sinks: good rows into one table, bad ones into another, as Spark's guide shows it.

Arguments: table, quarantine table, directory for the checkpoint.
"""

import sys

from pyspark.sql import DataFrame
from pyspark.sql.functions import col, current_date, current_timestamp, from_json, lit, to_date

from bench.contenders.spark_session import session
from bench.contenders.stock_spark import EVENT

REQUIRED = ("event_datetime", "event_name", "user_id", "platform", "product_name", "sku")


def main(table: str, quarantine: str, checkpoint: str) -> None:
    """Drain the topic into the tables."""
    spark, settings = session()
    messages = (
        spark.readStream.format("kafka")
        .option("kafka.bootstrap.servers", settings.kafka.bootstrap_servers)
        .option("subscribe", settings.user_actions_topic)
        .option("startingOffsets", "earliest")
        .option("maxOffsetsPerTrigger", "2000000")
        .load()
    )
    coordinates = [
        col("topic").alias("kafka_topic"),
        col("partition").alias("kafka_partition"),
        col("offset").alias("kafka_offset"),
        col("timestamp").alias("kafka_timestamp"),
        current_timestamp().alias("ingested_at"),
    ]
    event = from_json(col("value").cast("string"), EVENT)
    parsed = messages.withColumn("event", event).select(
        col("event.timestamp").alias("event_datetime"),
        to_date("event.timestamp").alias("event_date"),
        col("event.event_name"),
        col("event.user_identifiers.id").alias("user_id"),
        col("event.user_identifiers.platform"),
        col("event.product_information.name").alias("product_name"),
        col("event.product_information.SKU").alias("sku"),
        lit(None).cast("string").alias("unknown_fields"),
        *coordinates,
        col("value").alias("raw"),
    )
    complete = " AND ".join(f"{name} IS NOT NULL" for name in REQUIRED)

    def write(batch: DataFrame, _: int) -> None:
        batch.persist()
        batch.where(complete).drop("raw").writeTo(f"lake.{table}").append()
        bad = batch.where(f"NOT ({complete})").select(
            lit("not_an_event").alias("reason"),
            "raw",
            "kafka_topic",
            "kafka_partition",
            "kafka_offset",
            "kafka_timestamp",
            "ingested_at",
            current_date().alias("ingested_date"),
        )
        bad.writeTo(f"lake.{quarantine}").append()
        batch.unpersist()

    (
        parsed.writeStream.foreachBatch(write)
        .trigger(availableNow=True)
        .option("checkpointLocation", checkpoint)
        .start()
        .awaitTermination()
    )
    spark.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
