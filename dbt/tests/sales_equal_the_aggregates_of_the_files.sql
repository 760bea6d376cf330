-- Conservation: each line that the files' aggregates have is counted in its date once.
-- Aggregates that changed after the build are left out: a date with one of them waits for the next build.
{%- set dates = written_list(
    'select distinct event_date from ' ~ ref('stg_reporting__file_aggregates')
    ~ " where aggregated_at >= current_timestamp - interval '" ~ var('tested_days') ~ "' day"
) %}
with counted as (

    select
        event_date,
        sum(sold_line_count + returned_line_count) as line_count,
        sum(net_amount) as net_amount
    from {{ ref('fct_sales_daily') }}
    where event_date in {{ dates }}
    group by event_date

),

aggregated as (

    select
        event_date,
        sum(line_count) as line_count,
        sum(if(dataset = 'sales', amount_sum, -amount_sum)) as net_amount,
        max(aggregated_at) as aggregated_at
    from {{ ref('stg_reporting__file_aggregates') }}
    where event_date in {{ dates }}
    group by event_date

)

select
    aggregated.event_date,
    aggregated.line_count as aggregated_lines,
    counted.line_count as counted_lines
from aggregated
left join counted on aggregated.event_date = counted.event_date
where
    aggregated.aggregated_at <= {{ built_through(ref('fct_sales_daily')) }}
    and (
        aggregated.line_count is distinct from coalesce(counted.line_count, 0)
        or aggregated.net_amount is distinct from coalesce(counted.net_amount, 0)
    )
