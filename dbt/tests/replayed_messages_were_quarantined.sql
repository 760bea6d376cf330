-- A replay leaves the row in quarantine, so a replayed event without one came some other way.
-- It reads the sources, because dbt also runs it where only one of the two staging models is built. What was replayed
-- lately stands on the right of the join: of the quarantine only the files that may hold it are read.
with replayed as (

    select
        kafka_topic,
        kafka_partition,
        kafka_offset,
        file,
        file_version,
        file_line
    from {{ source('events', 'user_actions') }}
    where replayed_at >= current_timestamp - interval '{{ var("tested_days") }}' day

)

select * from replayed
except
select
    quarantine.kafka_topic,
    quarantine.kafka_partition,
    quarantine.kafka_offset,
    quarantine.file,
    quarantine.file_version,
    quarantine.file_line
from {{ source('quarantine', 'user_actions') }} as quarantine
inner join replayed
    on
        {{ same_origin('quarantine', 'replayed') }}
