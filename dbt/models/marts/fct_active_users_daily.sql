{#- A row tells of the 30 dates that end with its own: a touched date changes the 29 after it, which read 29 before. -#}
{{
    config(
        unique_key=['event_date'],
        meta={'rebuild_column': 'event_date', 'withdrawn': 'lakehouse.withdrawn'},
        properties={'partitioning': "ARRAY['year(event_date)']", 'sorted_by': "ARRAY['event_date']"}
    )
}}

with user_days as (

    select *
    from {{ ref('int_users__days') }}
    {%- if is_incremental() %}
    where event_date in {{ touched_dates(ref('int_users__days'), days_before=29, days_after=29) }}
    {%- endif %}

),

told_dates as (

    select
        event_date,
        sum(session_count) as session_count,
        sum(session_seconds) as session_seconds,
        count_if(purchase_count > 0) as buyer_count
    from user_days
    {%- if is_incremental() %}
    where event_date in {{ touched_dates(ref('int_users__days'), days_after=29) }}
    {%- endif %}
    group by event_date

),

users_in_window as (

    select
        told_dates.event_date,
        user_days.user_id,
        max(user_days.event_date) as last_active_date,
        max(user_days.last_ingested_at) as last_ingested_at
    from user_days
    inner join told_dates
        on user_days.event_date between date_add('day', -29, told_dates.event_date) and told_dates.event_date
    group by told_dates.event_date, user_days.user_id

),

counted as (

    select
        event_date,
        count_if(last_active_date = event_date) as daily_user_count,
        count_if(last_active_date > date_add('day', -7, event_date)) as weekly_user_count,
        count(*) as monthly_user_count,
        max(last_ingested_at) as last_ingested_at
    from users_in_window
    group by event_date

)

select
    counted.event_date,
    counted.daily_user_count,
    counted.weekly_user_count,
    counted.monthly_user_count,
    cast(counted.daily_user_count as double) / counted.monthly_user_count as daily_per_monthly_user_ratio,
    told_dates.buyer_count,
    told_dates.session_count,
    cast(told_dates.session_seconds as double) / told_dates.session_count as mean_session_seconds,
    counted.last_ingested_at,
    {{ if_late('counted.last_ingested_at', 'counted.event_date') }} as restated_at
from counted
inner join told_dates on counted.event_date = told_dates.event_date
