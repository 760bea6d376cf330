with events as (

    select * from {{ ref('stg_events__user_actions') }}

),

quarantine as (

    select * from {{ ref('stg_quarantine__user_actions') }}

)

select
    kafka_topic,
    kafka_partition,
    kafka_offset,
    'published' as outcome,
    'none' as reason,
    event_date,
    arrived_late_at is not null as is_late,
    ingested_at,
    cast(ingested_at at time zone 'UTC' as date) as ingested_date
from events
where replayed_at is null

union all

select
    kafka_topic,
    kafka_partition,
    kafka_offset,
    'quarantined' as outcome,
    reason,
    cast(null as date) as event_date,
    false as is_late,
    ingested_at,
    ingested_date
from quarantine

union all

select
    quarantine.kafka_topic,
    quarantine.kafka_partition,
    quarantine.kafka_offset,
    'replayed' as outcome,
    quarantine.reason,
    events.event_date,
    events.arrived_late_at is not null as is_late,
    events.ingested_at,
    cast(events.ingested_at at time zone 'UTC' as date) as ingested_date
from quarantine
inner join events
    on
        quarantine.kafka_topic = events.kafka_topic
        and quarantine.kafka_partition = events.kafka_partition
        and quarantine.kafka_offset = events.kafka_offset
where events.replayed_at is not null
