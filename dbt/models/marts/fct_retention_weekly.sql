{#-
    A late event can make a user's first week earlier, which moves the user between cohorts: both cohorts then change in
    every week from that one on, and in none before it. So the weeks from the first touched one on are rebuilt, and after
    a correction took events out, all of them.
-#}
{{
    config(
        unique_key=['activity_week', 'cohort_week'],
        meta={'rebuild_column': 'activity_week'},
        properties={
            'partitioning': "ARRAY['year(activity_week)']",
            'sorted_by': "ARRAY['activity_week', 'cohort_week']"
        }
    )
}}
{%- set adds = is_incremental() and not has_withdrawals() %}
{{ built_from_all() if not adds }}

with user_days as (

    select *
    from {{ ref('int_users__days') }}
    {%- if adds %}
    where event_date >= date_trunc('week', {{ first_touched_date(ref('int_users__days')) }})
    {%- endif %}

),

users as (

    select * from {{ ref('dim_users') }}

),

user_weeks as (

    select
        date_trunc('week', event_date) as activity_week,
        user_id,
        max(last_ingested_at) as last_ingested_at
    from user_days
    group by date_trunc('week', event_date), user_id

),

cohorts as (

    select
        cohort_week,
        count(*) as cohort_user_count
    from users
    group by cohort_week

),

counted as (

    select
        user_weeks.activity_week,
        users.cohort_week,
        count(*) as active_user_count,
        max(user_weeks.last_ingested_at) as last_ingested_at
    from user_weeks
    inner join users on user_weeks.user_id = users.user_id
    group by user_weeks.activity_week, users.cohort_week

)

select
    counted.cohort_week,
    date_diff('week', counted.cohort_week, counted.activity_week) as weeks_since_first,
    counted.activity_week,
    cohorts.cohort_user_count,
    counted.active_user_count,
    cast(counted.active_user_count as double) / cohorts.cohort_user_count as retention_ratio,
    -- Users that were built from less than their days must not hide from the next build what they lack.
    least(counted.last_ingested_at, {{ built_through(ref('dim_users')) }}) as last_ingested_at,
    {{ if_late('counted.last_ingested_at', "date_add('day', 6, counted.activity_week)") }} as restated_at
from counted
inner join cohorts on counted.cohort_week = cohorts.cohort_week
