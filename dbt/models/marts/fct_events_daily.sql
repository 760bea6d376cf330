{#- A table that was built before `last_replayed_at` was a column gets it with the next build. -#}
{{
    config(
        unique_key=['event_date', 'event_name', 'platform'],
        meta={'rebuild_column': 'event_date'},
        on_schema_change='append_new_columns',
        properties={'partitioning': "ARRAY['event_date']", 'sorted_by': "ARRAY['event_name', 'platform']"}
    )
}}

with events as (

    select * from {{ ref('stg_events__user_actions') }}

),

{% if is_incremental() -%}
-- Cut on arrival, not on the event's date: a late event reaches the day it belongs to.
touched_dates as (

    select distinct event_date
    from events
    where ingested_at >= (
        select
            coalesce(max(last_ingested_at), timestamp '1970-01-01 00:00:00 UTC')
            - interval '{{ var("arrival_overlap_hours") }}' hour
        from {{ this }}
    )

),

{% endif -%}
rebuilt_events as (

    select *
    from events
    {%- if is_incremental() %}
    where event_date in (select event_date from touched_dates)
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
    -- Apart, because each of the two commits in the order of these times, and both together do not.
    max(ingested_at) filter (where replayed_at is null) as last_ingested_at,
    max(replayed_at) as last_replayed_at
from rebuilt_events
group by event_date, event_name, platform
