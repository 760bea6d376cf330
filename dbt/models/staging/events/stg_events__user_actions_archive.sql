-- A part that is being moved is in both tables for a moment, and counts in the live one until it has left that.
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
    coalesce(source, 'kafka') as source,
    file,
    file_version,
    file_line
from {{ source('events', 'user_actions_archive') }}
where {{ is_archived() }}
