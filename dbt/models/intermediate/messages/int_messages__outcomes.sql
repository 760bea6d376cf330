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
    file,
    file_version,
    file_line,
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
    file,
    file_version,
    file_line,
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
    quarantine.file,
    quarantine.file_version,
    quarantine.file_line,
    'replayed' as outcome,
    quarantine.reason,
    events.event_date,
    events.arrived_late_at is not null as is_late,
    events.ingested_at,
    cast(events.ingested_at at time zone 'UTC' as date) as ingested_date
from quarantine
inner join events
    on
        {{ same_origin('quarantine', 'events') }}
where events.replayed_at is not null
