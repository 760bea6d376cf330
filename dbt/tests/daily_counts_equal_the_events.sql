-- Conservation: each published event is counted in its day once, none is lost, and no day is made up.
-- Events that arrived after the build are left out of the comparison: an ingest or a replay may commit between build
-- and test. Each of the two commits in the order in which its runs start, so a build sees all of each up to a moment.
with

counted as (

    select event_date, sum(event_count) as event_count
    from {{ ref('fct_events_daily') }}
    group by event_date

),

published as (

    select event_date, count(*) as event_count
    from {{ ref('stg_events__user_actions') }}
    where
        (replayed_at is null and ingested_at <= (select max(last_ingested_at) from {{ ref('fct_events_daily') }}))
        or replayed_at <= (select max(last_replayed_at) from {{ ref('fct_events_daily') }})
    group by event_date

)

select
    event_date,
    counted.event_count as counted_events,
    published.event_count as published_events
from counted
full outer join published using (event_date)
where counted.event_count is distinct from published.event_count
