{{
    config(
        unique_key=['ingested_date', 'outcome', 'reason'],
        meta={'rebuild_column': 'ingested_date'},
        properties={'partitioning': "ARRAY['ingested_date']"}
    )
}}

with outcomes as (

    select *
    from {{ ref('int_messages__outcomes') }}
    {%- if is_incremental() %}
    where ingested_at >= (
        select
            date_trunc(
                'day',
                coalesce(max(last_ingested_at), timestamp '1970-01-01 00:00:00 UTC')
                - interval '{{ var("arrival_overlap_hours") }}' hour
            )
        from {{ this }}
    )
    {%- endif %}

)

select
    ingested_date,
    outcome,
    reason,
    count(*) as message_count,
    cast(count(*) as double) / sum(count(*)) over (partition by ingested_date, outcome = 'replayed') as message_ratio,
    max(ingested_at) as last_ingested_at
from outcomes
group by ingested_date, outcome, reason
