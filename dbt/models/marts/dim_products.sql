{#-
    A name starts at the first event that shows it and ends at the first that shows another one. What was known of a
    product before the first touched date holds; from that date on its names are strung together anew. After a correction
    took events out, all of them are.
-#}
{{
    config(
        unique_key=['sku', 'valid_from'],
        meta={'rebuild_column': 'sku'},
        properties={'sorted_by': "ARRAY['sku', 'valid_from']"}
    )
}}
{%- set adds = is_incremental() and not has_withdrawals() %}
{{ built_from_all() if not adds }}
{%- if adds %}
{%- set first_date = first_touched_date(ref('int_products__name_days')) %}
{%- endif %}

with arrived_names as (

    select
        sku,
        product_name,
        first_event_at,
        first_ingested_at,
        last_ingested_at
    from {{ ref('int_products__name_days') }}
    {%- if adds %}
    where event_date >= {{ first_date }}
    {%- endif %}

),

{% if adds -%}
known as (

    select
        sku,
        product_name,
        valid_from as first_event_at,
        first_ingested_at,
        max(last_ingested_at) over (partition by sku) as last_ingested_at
    from {{ this }}
    where sku in (select arrived_names.sku from arrived_names)

),

{% endif -%}
names as (

    select * from arrived_names
    {%- if adds %}

    union all

    select *
    from known
    where first_event_at < with_timezone(cast({{ first_date }} as timestamp(6)), 'UTC')
    {%- endif %}

),

followed as (

    select
        *,
        lag(product_name) over (partition by sku order by first_event_at) as previous_name,
        max(last_ingested_at) over (partition by sku) as product_last_ingested_at
    from names

),

spells as (

    select
        sku,
        product_name,
        first_event_at as valid_from,
        lead(first_event_at) over (partition by sku order by first_event_at) as valid_to,
        first_ingested_at,
        lead(first_ingested_at) over (partition by sku order by first_event_at) as ended_by_ingested_at,
        product_last_ingested_at
    from followed
    where product_name is distinct from previous_name

),

judged as (

    select
        *,
        {{ if_late('first_ingested_at', "cast(valid_from at time zone 'UTC' as date)") }} as started_late_at,
        {{ if_late('ended_by_ingested_at', "cast(valid_to at time zone 'UTC' as date)") }} as ended_late_at
    from spells

)

select
    sku,
    product_name,
    valid_from,
    valid_to,
    valid_to is null as is_current,
    first_ingested_at,
    if(valid_to is null, product_last_ingested_at) as last_ingested_at,
    coalesce(greatest(started_late_at, ended_late_at), started_late_at, ended_late_at) as restated_at
from judged
