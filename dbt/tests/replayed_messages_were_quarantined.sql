-- A replay leaves the row in quarantine, so a replayed event without one came some other way.
-- It reads the sources, because dbt also runs it where only one of the two staging models is built.
select
    events.kafka_topic,
    events.kafka_partition,
    events.kafka_offset
from {{ source('events', 'user_actions') }} as events
left join {{ source('quarantine', 'user_actions') }} as quarantine
    on
        events.kafka_topic = quarantine.kafka_topic
        and events.kafka_partition = quarantine.kafka_partition
        and events.kafka_offset = quarantine.kafka_offset
where
    events.replayed_at >= current_timestamp - interval '{{ var("tested_days") }}' day
    and quarantine.kafka_offset is null
