-- A product's spells touch and do not overlap, each brings another name, and the last one is the current one.
with followed as (

    select
        *,
        lead(valid_from) over (partition by sku order by valid_from) as next_valid_from,
        lead(product_name) over (partition by sku order by valid_from) as next_product_name
    from {{ ref('dim_products') }}

)

select
    sku,
    product_name,
    valid_from,
    valid_to,
    next_valid_from
from followed
where
    valid_to is distinct from next_valid_from
    or product_name = next_product_name
    or is_current <> (next_valid_from is null)
