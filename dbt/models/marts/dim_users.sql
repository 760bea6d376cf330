{#-
    Every column is a least or a greatest value over the user's sessions, so adding sessions to what is known of the
    user gives what all sessions give, and adding one again changes nothing: the history is not read. Only after a
    correction took events out, all sessions are.
-#}
{{
    config(
        unique_key=['user_id'],
        meta={'rebuild_column': 'user_id'},
        properties={'sorted_by': "ARRAY['user_id']"}
    )
}}

{%- set adds = is_incremental() and not has_withdrawals() %}
{{ built_from_all() if not adds }}

with arrived_sessions as (

    select
        user_id,
        session_started_at as first_event_at,
        first_platform,
        session_ended_at as last_event_at,
        last_platform,
        last_ingested_at,
        restated_at
    from {{ ref('int_users__sessions') }}
    {%- if adds %}
    where last_ingested_at >= {{ arrival_cut() }}
    {%- endif %}

),

seen as (

    select * from arrived_sessions
    {%- if adds %}

    union all

    select
        user_id,
        first_event_at,
        first_platform,
        last_event_at,
        last_platform,
        last_ingested_at,
        restated_at
    from {{ this }}
    where user_id in (select arrived_sessions.user_id from arrived_sessions)
    {%- endif %}

)

select
    user_id,
    min(first_event_at) as first_event_at,
    min_by(first_platform, row(first_event_at, first_platform)) as first_platform,
    date_trunc('week', cast(min(first_event_at) at time zone 'UTC' as date)) as cohort_week,
    max(last_event_at) as last_event_at,
    max_by(last_platform, row(last_event_at, last_platform)) as last_platform,
    max(last_ingested_at) as last_ingested_at,
    max(restated_at) as restated_at
from seen
group by user_id
