select
    reason,
    message as reason_message,
    field as field_path,
    raw is null and file is null as is_tombstone,
    length(raw) as raw_size_bytes,
    kafka_topic,
    kafka_partition,
    kafka_offset,
    kafka_timestamp,
    coalesce(source, 'kafka') as source,
    file,
    file_version,
    file_line,
    rule_version,
    ingested_at,
    ingested_date
from {{ source('quarantine', 'user_actions') }}
