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
    replayed_at
from {{ source('events', 'user_actions') }}
