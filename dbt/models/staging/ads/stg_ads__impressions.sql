-- Each impression is in the source once: the view over live and archived ones sees to it, and a test looks again.
select
    shown_date as event_date,
    impression_id,
    campaign,
    ad,
    sku,
    user_id,
    shown_at,
    clicked_at,
    cost_micros,
    updated_at,
    arrived_at,
    {{ if_late('arrived_at', 'shown_date') }} as arrived_late_at
from {{ source('ads', 'impressions_all') }}
