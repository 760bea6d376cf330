-- Conservation: the steps of all products of a day are the day's events of that name, and all events are somewhere.
-- A day whose newest event only one of the two had seen is left to the next build.
{%- set dates = tested_dates() %}
with funnel as (

    select
        event_date,
        sum(event_count) as event_count,
        sum(view_count) as view_count,
        sum(click_count) as click_count,
        sum(add_to_cart_count) as add_to_cart_count,
        sum(purchase_count) as purchase_count,
        max(last_ingested_at) as last_ingested_at
    from {{ ref('fct_product_funnel_daily') }}
    where event_date in {{ dates }}
    group by event_date

),

daily as (

    select
        event_date,
        sum(event_count) as event_count,
        sum(if(event_name = 'view', event_count, 0)) as view_count,
        sum(if(event_name = 'click', event_count, 0)) as click_count,
        sum(if(event_name = 'add_to_cart', event_count, 0)) as add_to_cart_count,
        sum(if(event_name = 'purchase', event_count, 0)) as purchase_count,
        greatest(
            coalesce(max(last_ingested_at), max(last_replayed_at)),
            coalesce(max(last_replayed_at), max(last_ingested_at))
        ) as last_ingested_at
    from {{ ref('fct_events_daily') }}
    where event_date in {{ dates }}
    group by event_date

)

select
    event_date,
    funnel.event_count as funnel_events,
    daily.event_count as daily_events
from funnel
full outer join daily using (event_date)
where
    coalesce(greatest(funnel.last_ingested_at, daily.last_ingested_at), funnel.last_ingested_at, daily.last_ingested_at)
    <= least(
        {{ built_through(ref('fct_product_funnel_daily')) }},
        {{ built_through(ref('fct_events_daily')) }}
    )
    and (
        funnel.event_count is distinct from daily.event_count
        or funnel.view_count is distinct from daily.view_count
        or funnel.click_count is distinct from daily.click_count
        or funnel.add_to_cart_count is distinct from daily.add_to_cart_count
        or funnel.purchase_count is distinct from daily.purchase_count
    )
