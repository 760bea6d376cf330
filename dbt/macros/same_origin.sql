{#-
    A condition for joining two tables on where their rows came from: the same Kafka message, or the same record of the
    same version of a file. Of the two kinds of coordinates one is null, and a join on what may be null would be slow.
-#}
{% macro same_origin(left, right) -%}
    {%- for place in [
        "coalesce({}.kafka_topic, concat({}.file_version, ' ', {}.file))",
        "coalesce({}.kafka_partition, 0)",
        "coalesce({}.kafka_offset, {}.file_line)",
    ] -%}
        {{ place.replace('{}', left) }} = {{ place.replace('{}', right) }}{{ ' and ' if not loop.last }}
    {%- endfor -%}
{%- endmacro %}
