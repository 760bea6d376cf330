{#-
    Fails for each row with a null in any column of the model but `except_columns`, in one pass over it.
    dbt's `not_null` reads the model once for each column. Staging needs neither: Iceberg holds its columns.

    `lately` as in `unique_combination`; dbt's own `where` would hide from the test which columns there are.
-#}
{% test never_null(model, except_columns=[], lately=none) %}
{%- set columns = adapter.get_columns_in_relation(model) if execute else [] %}
{%- set nulls = [] %}
{%- for column in columns if column.name not in except_columns %}
{%- do nulls.append(column.quoted ~ ' is null') %}
{%- endfor %}
select *
from {{ model }}
where
    ({{ nulls | join(' or ') or 'false' }})
    {% if lately -%}
        and {{ lately }} >= current_timestamp - interval '{{ var("tested_days") }}' day
    {%- endif %}
{% endtest %}
