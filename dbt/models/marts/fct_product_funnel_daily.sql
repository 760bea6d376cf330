{{
    config(
        unique_key=['event_date', 'sku'],
        meta={'rebuild_column': 'event_date', 'withdrawn': 'lakehouse.withdrawn'},
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

counted as (

    select
        event_date,
        sku,
        count(*) as event_count,
        count_if(event_name = 'view') as view_count,
        count_if(event_name = 'click') as click_count,
        count_if(event_name = 'add_to_cart') as add_to_cart_count,
        count_if(event_name = 'purchase') as purchase_count,
        max(ingested_at) as last_ingested_at,
        max(arrived_late_at) as restated_at
    from events
    group by event_date, sku

)

select
    event_date,
    sku,
    event_count,
    view_count,
    click_count,
    add_to_cart_count,
    purchase_count,
    cast(click_count as double) / nullif(view_count, 0) as click_per_view_ratio,
    cast(add_to_cart_count as double) / nullif(click_count, 0) as add_to_cart_per_click_ratio,
    cast(purchase_count as double) / nullif(add_to_cart_count, 0) as purchase_per_add_to_cart_ratio,
    cast(purchase_count as double) / nullif(view_count, 0) as purchase_per_view_ratio,
    last_ingested_at,
    restated_at
from counted
