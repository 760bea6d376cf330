{{
    config(
        materialized='incremental',
        unique_key=['event_date', 'user_id'],
        meta={'rebuild_column': 'event_date', 'withdrawn': 'lakehouse.withdrawn', 'first_build': 'in_pieces'},
        properties={'partitioning': "ARRAY['event_date']", 'sorted_by': "ARRAY['user_id']"}
    )
}}

with sessions as (

    select *
    from {{ ref('int_users__sessions') }}
    {%- if is_incremental() %}
    where event_date in {{ touched_dates(ref('int_users__sessions')) }}
    {%- endif %}

)

select
    event_date,
    user_id,
    count(*) as session_count,
    sum(session_seconds) as session_seconds,
    sum(event_count) as event_count,
    sum(purchase_count) as purchase_count,
    min(session_started_at) as first_event_at,
    max(session_ended_at) as last_event_at,
    max(last_ingested_at) as last_ingested_at,
    max(restated_at) as restated_at
from sessions
group by event_date, user_id
