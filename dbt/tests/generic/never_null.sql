{#-
    Fails for each row with a null in any column of the model but `except_columns`, in one pass over it.
    dbt's `not_null` reads the model once for each column. Staging needs neither: Iceberg holds its columns.
-#}
{% test never_null(model, except_columns=[]) %}
{%- set columns = adapter.get_columns_in_relation(model) if execute else [] %}
select *
from {{ model }}
where false
    {%- for column in columns if column.name not in except_columns %}
    or {{ column.quoted }} is null
    {%- endfor %}
{% endtest %}
