{#- When a UTC date is closed: an event that arrives from then on is late, and restates what was told of its date. -#}
{% macro closes_at(date) -%}
    with_timezone(cast({{ date }} as timestamp(6)), 'UTC')
    + interval '1' day
    + interval '{{ var("late_after_hours") }}' hour
{%- endmacro %}

{#- An arrival if it was late for a date, else null. -#}
{% macro if_late(arrived_at, date) -%}
    if({{ arrived_at }} >= {{ closes_at(date) }}, {{ arrived_at }})
{%- endmacro %}
