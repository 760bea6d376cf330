-- Each Kafka message is in the source once: the ingest proves it offset by offset, and a test of this model's key looks
-- again. So nothing is deduplicated here, which would make every read of some days sort the whole table.
select
    event_datetime,
    event_date,
    event_name,
    user_id,
    platform,
    product_name,
    sku,
    unknown_fields,
    kafka_topic,
    kafka_partition,
    kafka_offset,
    kafka_timestamp,
    ingested_at,
    replayed_at,
    {{ if_late('ingested_at', 'event_date') }} as arrived_late_at
from {{ source('events', 'user_actions') }}
