{{
    config(
        materialized='incremental',
        unique_key=['event_date', 'sku', 'run_number'],
        meta={'rebuild_column': 'event_date', 'withdrawn': 'lakehouse.withdrawn', 'first_build': 'in_pieces'},
        properties={'partitioning': "ARRAY['month(event_date)']", 'sorted_by': "ARRAY['event_date', 'sku']"}
    )
}}

with events as (

    select *
    from {{ ref('stg_events__user_actions') }}
    {%- if is_incremental() %}
    where event_date in {{ touched_dates(ref('stg_events__user_actions'), arrived='ingested_at') }}
    {%- endif %}

),

named as (

    select
        event_date,
        sku,
        event_datetime,
        product_name,
        min(ingested_at) as first_ingested_at,
        max(ingested_at) as last_ingested_at
    from events
    group by event_date, sku, event_datetime, product_name

),

-- At one moment a product has one name: of several the last by the alphabet, so that the order of reading is no matter.
moments as (

    select
        event_date,
        sku,
        event_datetime,
        max(product_name) as product_name,
        max_by(first_ingested_at, product_name) as first_ingested_at,
        max(last_ingested_at) as last_ingested_at
    from named
    group by event_date, sku, event_datetime

),

followed as (

    select
        *,
        lag(product_name) over (partition by event_date, sku order by event_datetime) as previous_name
    from moments

),

numbered as (

    select
        *,
        count_if(product_name is distinct from previous_name)
            over (partition by event_date, sku order by event_datetime) as run_number
    from followed

)

select
    event_date,
    sku,
    run_number,
    product_name,
    min(event_datetime) as first_event_at,
    min_by(first_ingested_at, event_datetime) as first_ingested_at,
    max(last_ingested_at) as last_ingested_at
from numbered
group by event_date, sku, run_number, product_name
