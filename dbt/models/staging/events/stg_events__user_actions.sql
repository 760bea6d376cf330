{#-
    Each Kafka message, and each record of a file, is in the sources once: the ingest proves it offset by offset and line
    by line, and a test of this model's key looks again. So nothing is deduplicated here, which would make every read of some days sort the whole table.

    Archived events are among them, so that a date is rebuilt from all of its events when a late one comes after the
    others were archived. The live table stands first: that is what makes an event count once while it is moved.

    Both tables have these columns, in an order of their own.
-#}
{%- set columns = [
    'event_datetime',
    'event_date',
    'event_name',
    'user_id',
    'platform',
    'product_name',
    'sku',
    'unknown_fields',
    'kafka_topic',
    'kafka_partition',
    'kafka_offset',
    'kafka_timestamp',
    'ingested_at',
    'replayed_at',
    'source',
    'file',
    'file_version',
    'file_line',
] -%}

with events as (

    select {{ columns | join(', ') }}
    from {{ source('events', 'user_actions') }}

    union all

    select {{ columns | join(', ') }}
    from {{ ref('stg_events__user_actions_archive') }}

)

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
    file_line,
    {{ if_late('ingested_at', 'event_date') }} as arrived_late_at
from events
