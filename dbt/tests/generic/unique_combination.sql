{#- Fails for each combination of `column_names` that more than one row has. -#}
{% test unique_combination(model, column_names) %}
select {{ column_names | join(', ') }}, count(*) as duplicate_rows
from {{ model }}
group by {{ column_names | join(', ') }}
having count(*) > 1
{% endtest %}
