{{
    config(
        unique_key=['ingested_date', 'outcome', 'reason'],
        meta={'rebuild_column': 'ingested_date', 'withdrawn': 'lakehouse.withdrawn.ingested'},
        properties={
            'partitioning': "ARRAY['month(ingested_date)']",
            'sorted_by': "ARRAY['ingested_date', 'outcome', 'reason']"
        }
    )
}}

with outcomes as (

    select *
    from {{ ref('int_messages__outcomes') }}
    {%- if is_incremental() %}
    where
        ingested_at >= date_trunc('day', {{ arrival_cut() }})
        or ingested_date in {{ withdrawn_dates('>= ' ~ arrival_cut(), 'lakehouse.withdrawn.ingested') }}
    {%- endif %}

)

select
    ingested_date,
    outcome,
    reason,
    count(*) as message_count,
    cast(count(*) as double) / sum(count(*)) over (partition by ingested_date, outcome = 'replayed') as message_ratio,
    count_if(is_late) as late_message_count,
    count(distinct event_date) filter (where is_late) as restated_date_count,
    max(ingested_at) as last_ingested_at
from outcomes
group by ingested_date, outcome, reason
