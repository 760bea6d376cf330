{#-
    Fails for each row with a null in any column of the model, in one pass over it.
    dbt's `not_null` reads the model once for each column. Staging needs neither: Iceberg holds its columns.
-#}
{% test never_null(model) %}
{%- set columns = adapter.get_columns_in_relation(model) if execute else [] %}
select *
from {{ model }}
where false
    {%- for column in columns %}
    or {{ column.quoted }} is null
    {%- endfor %}
{% endtest %}
