-- The shares of what was ingested on a date make one, and so do those of what was replayed on it.
select
    ingested_date,
    outcome = 'replayed' as is_replayed,
    sum(message_ratio) as message_ratio
from {{ ref('fct_data_quality_daily') }}
group by ingested_date, outcome = 'replayed'
having abs(sum(message_ratio) - 1) > 1e-9
