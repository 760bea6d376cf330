select
    dataset,
    event_date,
    sku,
    product_name,
    line_count,
    user_count,
    quantity_sum,
    amount_sum,
    amount_min,
    amount_max,
    amount_mean,
    amount_median,
    aggregated_at
from {{ source('reporting', 'file_aggregates') }}
