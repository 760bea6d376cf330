{#-
    Fails for each combination of `column_names` that more than one row has.

    `lately` names the column of arrival by which only what arrived in the last `tested_days` is read. A build writes no
    row beside one of the same key, so two that are equal come from one build and have arrived alike.
-#}
{% test unique_combination(model, column_names, lately=none) %}
select
    {{ column_names | join(', ') }},
    count(*) as duplicate_rows
from {{ model }}
{% if lately -%}
    where {{ lately }} >= current_timestamp - interval '{{ var("tested_days") }}' day
{%- endif %}
group by {{ column_names | join(', ') }}
having count(*) > 1
{% endtest %}
