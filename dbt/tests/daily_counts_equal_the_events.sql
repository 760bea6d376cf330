-- Conservation: each published event is counted in its day once, none is lost, and no day is made up.
-- Events that arrived after the build are left out of the comparison: an ingest, a replay or a run over files may
-- commit between build and test. The first, and the other two together, commit in the order in which their runs start,
-- so a build sees all of each up to a moment. Dates that a correction took events from meanwhile wait for the next one.
-- Days that nothing reached lately were tested when something did, and `lakehouse audit` compares them all.
{%- set dates = tested_dates() %}
with counted as (

    select
        event_date,
        sum(event_count) as event_count
    from {{ ref('fct_events_daily') }}
    where event_date in {{ dates }}
    group by event_date

),

published as (

    select
        event_date,
        count(*) as event_count
    from {{ ref('stg_events__user_actions') }}
    where
        event_date in {{ dates }}
        and ingested_at <= if(
            replayed_at is null and file is null,
            {{ built_through(ref('fct_events_daily')) }},
            {{ built_through(ref('fct_events_daily'), 'last_replayed_at') }}
        )
    group by event_date

)

select
    event_date,
    counted.event_count as counted_events,
    published.event_count as published_events
from counted
full outer join published using (event_date)
where
    counted.event_count is distinct from published.event_count
    and event_date not in {{ withdrawn_dates("> " ~ built_through(ref('fct_events_daily'), 'last_replayed_at')) }}
