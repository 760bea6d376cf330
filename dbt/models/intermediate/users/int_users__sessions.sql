{{
    config(
        materialized='incremental',
        unique_key=['event_date', 'user_id', 'session_number'],
        meta={'rebuild_column': 'event_date', 'withdrawn': 'lakehouse.withdrawn', 'first_build': 'in_pieces'},
        properties={'partitioning': "ARRAY['event_date']", 'sorted_by': "ARRAY['user_id', 'session_number']"}
    )
}}

with events as (

    select *
    from {{ ref('stg_events__user_actions') }}
    {%- if is_incremental() %}
    where event_date in {{ touched_dates(ref('stg_events__user_actions'), arrived='ingested_at') }}
    {%- endif %}

),

followed as (

    select
        *,
        lag(event_datetime) over (partition by event_date, user_id order by event_datetime) as previous_event_at
    from events

),

numbered as (

    select
        *,
        -- Events of one moment are peers in the window, so they get the same number in whatever order they are read.
        count_if(
            previous_event_at is null
            or event_datetime >= previous_event_at + interval '{{ var("session_gap_minutes") }}' minute
        ) over (partition by event_date, user_id order by event_datetime) as session_number
    from followed

)

select
    event_date,
    user_id,
    session_number,
    min(event_datetime) as session_started_at,
    max(event_datetime) as session_ended_at,
    date_diff('second', min(event_datetime), max(event_datetime)) as session_seconds,
    count(*) as event_count,
    count_if(event_name = 'purchase') as purchase_count,
    -- By the name too, where events of one moment were on two platforms.
    min_by(platform, row(event_datetime, platform)) as first_platform,
    max_by(platform, row(event_datetime, platform)) as last_platform,
    max(ingested_at) as last_ingested_at,
    max(arrived_late_at) as restated_at
from numbered
group by event_date, user_id, session_number
