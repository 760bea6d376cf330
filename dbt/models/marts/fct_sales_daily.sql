{#-
    The funnel and the files arrive apart, so a date is rebuilt when either has something new. What the mart says it was
    built through is the older of the two: a funnel that was built from less than its events must not hide them.
-#}
{{
    config(
        unique_key=['event_date', 'sku'],
        meta={'rebuild_column': 'event_date', 'withdrawn': 'lakehouse.withdrawn'},
        properties={'partitioning': "ARRAY['month(event_date)']", 'sorted_by': "ARRAY['event_date', 'sku']"}
    )
}}
{%- if is_incremental() %}
{%- set touched_by_files = touched_dates(ref('stg_reporting__file_aggregates'), arrived='aggregated_at') %}
{%- set touched_by_events = touched_dates(ref('fct_product_funnel_daily')) %}
{%- endif %}

with files as (

    select
        event_date,
        sku,
        coalesce(sum(line_count) filter (where dataset = 'sales'), 0) as sold_line_count,
        coalesce(max(user_count) filter (where dataset = 'sales'), 0) as buyer_count,
        coalesce(sum(quantity_sum) filter (where dataset = 'sales'), 0) as sold_quantity,
        coalesce(sum(amount_sum) filter (where dataset = 'sales'), 0) as sold_amount,
        max(amount_median) filter (where dataset = 'sales') as median_sold_line_amount,
        coalesce(sum(line_count) filter (where dataset = 'returns'), 0) as returned_line_count,
        coalesce(sum(quantity_sum) filter (where dataset = 'returns'), 0) as returned_quantity,
        coalesce(sum(amount_sum) filter (where dataset = 'returns'), 0) as returned_amount,
        max(aggregated_at) as aggregated_at
    from {{ ref('stg_reporting__file_aggregates') }}
    {%- if is_incremental() %}
    where event_date in {{ touched_by_files }} or event_date in {{ touched_by_events }}
    {%- endif %}
    group by event_date, sku

),

funnel as (

    select
        event_date,
        sku,
        view_count,
        purchase_count,
        last_ingested_at,
        restated_at
    from {{ ref('fct_product_funnel_daily') }}
    {%- if is_incremental() %}
    where event_date in {{ touched_by_files }} or event_date in {{ touched_by_events }}
    {%- endif %}

),

joined as (

    select
        event_date,
        sku,
        coalesce(funnel.view_count, 0) as view_event_count,
        coalesce(funnel.purchase_count, 0) as purchase_event_count,
        coalesce(files.sold_line_count, 0) as sold_line_count,
        coalesce(files.buyer_count, 0) as buyer_count,
        coalesce(files.sold_quantity, 0) as sold_quantity,
        coalesce(files.sold_amount, 0) as sold_amount,
        files.median_sold_line_amount,
        coalesce(files.returned_line_count, 0) as returned_line_count,
        coalesce(files.returned_quantity, 0) as returned_quantity,
        coalesce(files.returned_amount, 0) as returned_amount,
        greatest(
            coalesce(files.aggregated_at, funnel.last_ingested_at),
            coalesce(funnel.last_ingested_at, files.aggregated_at)
        ) as arrived_at,
        {{ if_late('files.aggregated_at', 'event_date') }} as aggregated_late_at,
        funnel.restated_at as events_restated_at
    from files
    full outer join funnel using (event_date, sku)

)

select
    event_date,
    sku,
    view_event_count,
    purchase_event_count,
    sold_line_count,
    buyer_count,
    sold_quantity,
    sold_amount,
    median_sold_line_amount,
    returned_line_count,
    returned_quantity,
    returned_amount,
    sold_amount - returned_amount as net_amount,
    cast(purchase_event_count as double) / nullif(sold_line_count, 0) as purchase_events_per_sold_line_ratio,
    least(
        arrived_at,
        coalesce({{ built_through(ref('fct_product_funnel_daily')) }}, timestamp '1970-01-01 00:00:00.000000 UTC')
    ) as last_ingested_at,
    coalesce(greatest(aggregated_late_at, events_restated_at), aggregated_late_at, events_restated_at) as restated_at
from joined
