{{
    config(
        unique_key=['event_date', 'event_name', 'platform'],
        meta={'rebuild_column': 'event_date', 'withdrawn': 'lakehouse.withdrawn'},
        properties={
            'partitioning': "ARRAY['month(event_date)']",
            'sorted_by': "ARRAY['event_date', 'event_name', 'platform']"
        }
    )
}}

with events as (

    select *
    from {{ ref('stg_events__user_actions') }}
    {%- if is_incremental() %}
    where event_date in {{ touched_dates(ref('stg_events__user_actions'), arrived='ingested_at') }}
    {%- endif %}

)

select
    event_date,
    event_name,
    platform,
    count(*) as event_count,
    count(distinct user_id) as user_count,
    count(distinct sku) as product_count,
    min(event_datetime) as first_event_at,
    max(event_datetime) as last_event_at,
    -- Apart, because each of the two commits in the order of these times, and both together do not: the ingest of
    -- messages is one, replays and files are the other.
    max(ingested_at) filter (where replayed_at is null and file is null) as last_ingested_at,
    max(ingested_at) filter (where replayed_at is not null or file is not null) as last_replayed_at,
    max(arrived_late_at) as restated_at
from events
group by event_date, event_name, platform
