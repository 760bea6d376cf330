{{
    config(
        unique_key=['event_date', 'campaign', 'sku'],
        meta={'rebuild_column': 'event_date'},
        properties={'partitioning': "ARRAY['month(event_date)']", 'sorted_by': "ARRAY['event_date', 'campaign', 'sku']"}
    )
}}

{%- set impressions, events = ref('stg_ads__impressions'), ref('stg_events__user_actions') -%}
{%- set dates = touched_ad_dates(impressions, events, arrival_cut()) if is_incremental() -%}

with impressions as (

    select *
    from {{ ref('stg_ads__impressions') }}
    {%- if is_incremental() %}
    where event_date in {{ dates }}
    {%- endif %}

),

purchases as (

    select
        event_date,
        sku,
        user_id,
        event_datetime,
        count(*) as purchase_count,
        max(ingested_at) as last_ingested_at,
        max(arrived_late_at) as restated_at
    from {{ ref('stg_events__user_actions') }}
    where
        event_name = 'purchase'
        {%- if is_incremental() %}
        and event_date in {{ dates }}
        {%- endif %}
    group by event_date, sku, user_id, event_datetime

),

-- A purchase goes to the campaign that showed the user an ad for the product last, on that date and before.
attributed as (

    select
        purchases.event_date,
        purchases.sku,
        purchases.user_id,
        purchases.event_datetime,
        max_by(impressions.campaign, row(impressions.shown_at, impressions.impression_id)) as campaign,
        max(purchases.purchase_count) as purchase_count,
        max(purchases.last_ingested_at) as last_ingested_at,
        max(purchases.restated_at) as restated_at
    from impressions
    inner join purchases
        on
            impressions.event_date = purchases.event_date
            and impressions.sku = purchases.sku
            and impressions.user_id = purchases.user_id
            and impressions.shown_at <= purchases.event_datetime
    group by purchases.event_date, purchases.sku, purchases.user_id, purchases.event_datetime

),

converted as (

    select
        event_date,
        campaign,
        sku,
        sum(purchase_count) as purchase_count,
        count(distinct user_id) as buyer_count,
        max(last_ingested_at) as last_ingested_at,
        max(restated_at) as restated_at
    from attributed
    group by event_date, campaign, sku

),

shown as (

    select
        event_date,
        campaign,
        sku,
        count(*) as impression_count,
        count(clicked_at) as click_count,
        count(distinct user_id) as reached_user_count,
        sum(cost_micros) as cost_micros,
        max(arrived_at) as last_arrived_at,
        max(arrived_late_at) as restated_at
    from impressions
    group by event_date, campaign, sku

)

select
    shown.event_date,
    shown.campaign,
    shown.sku,
    shown.impression_count,
    shown.click_count,
    shown.reached_user_count,
    shown.cost_micros,
    coalesce(converted.purchase_count, 0) as purchase_count,
    coalesce(converted.buyer_count, 0) as buyer_count,
    cast(shown.click_count as double) / shown.impression_count as click_per_impression_ratio,
    cast(coalesce(converted.purchase_count, 0) as double) / nullif(shown.click_count, 0) as purchase_per_click_ratio,
    cast(coalesce(converted.buyer_count, 0) as double) / shown.reached_user_count as buyer_per_reached_user_ratio,
    greatest(shown.last_arrived_at, coalesce(converted.last_ingested_at, shown.last_arrived_at)) as last_ingested_at,
    coalesce(
        greatest(shown.restated_at, converted.restated_at), shown.restated_at, converted.restated_at
    ) as restated_at
from shown
left join converted
    on
        shown.event_date = converted.event_date
        and shown.campaign = converted.campaign
        and shown.sku = converted.sku
