select
    reason,
    message as reason_message,
    field as field_path,
    raw is null as is_tombstone,
    length(raw) as raw_size_bytes,
    kafka_topic,
    kafka_partition,
    kafka_offset,
    kafka_timestamp,
    rule_version,
    ingested_at,
    ingested_date
from {{ source('quarantine', 'user_actions') }}
