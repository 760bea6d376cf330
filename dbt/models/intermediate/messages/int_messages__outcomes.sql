select
    kafka_topic,
    kafka_partition,
    kafka_offset,
    'published' as outcome,
    'none' as reason,
    ingested_at,
    cast(ingested_at at time zone 'UTC' as date) as ingested_date
from {{ ref('stg_events__user_actions') }}

union all

select
    kafka_topic,
    kafka_partition,
    kafka_offset,
    'quarantined' as outcome,
    reason,
    ingested_at,
    ingested_date
from {{ ref('stg_quarantine__user_actions') }}
