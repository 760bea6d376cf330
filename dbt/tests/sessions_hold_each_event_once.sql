-- Conservation: the sessions of a day have as many events as the day, and so have the days of its users.
-- A day whose newest event one of the three had not seen is left to the next build.
{%- set dates = tested_dates() %}
with sessions as (

    select
        event_date,
        sum(event_count) as event_count,
        max(last_ingested_at) as last_ingested_at
    from {{ ref('int_users__sessions') }}
    where event_date in {{ dates }}
    group by event_date

),

user_days as (

    select
        event_date,
        sum(event_count) as event_count,
        max(last_ingested_at) as last_ingested_at
    from {{ ref('int_users__days') }}
    where event_date in {{ dates }}
    group by event_date

),

daily as (

    select
        event_date,
        sum(event_count) as event_count,
        greatest(
            coalesce(max(last_ingested_at), max(last_replayed_at)),
            coalesce(max(last_replayed_at), max(last_ingested_at))
        ) as last_ingested_at
    from {{ ref('fct_events_daily') }}
    where event_date in {{ dates }}
    group by event_date

)

select
    event_date,
    daily.event_count as daily_events,
    sessions.event_count as session_events,
    user_days.event_count as user_day_events
from daily
full outer join sessions using (event_date)
full outer join user_days using (event_date)
where
    (
        daily.event_count is distinct from sessions.event_count
        or daily.event_count is distinct from user_days.event_count
    )
    and greatest(
        coalesce(daily.last_ingested_at, sessions.last_ingested_at, user_days.last_ingested_at),
        coalesce(sessions.last_ingested_at, daily.last_ingested_at, user_days.last_ingested_at),
        coalesce(user_days.last_ingested_at, daily.last_ingested_at, sessions.last_ingested_at)
    ) <= least(
        {{ built_through(ref('fct_events_daily')) }},
        {{ built_through(ref('int_users__sessions')) }},
        {{ built_through(ref('int_users__days')) }}
    )
