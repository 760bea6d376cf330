{#-
    The answer of a query, asked while the model is compiled and written into its statement as literals.

    Trino prunes files and partitions by literals when it plans. A subquery in their place prunes only by a dynamic
    filter, which a scan waits for only so long and a MERGE does not have at all: then everything is read.

    Models that are only parsed get the query itself, and unit tests too, so that they test the query as well.
-#}

{#- A list for `in`, of the query's one column, which is of `type`: date or timestamp. -#}
{% macro written_list(query, type='date') -%}
    {%- if execute and model.resource_type != 'unit_test' -%}
        {%- set found = run_query(
            'select cast(answer as varchar) from (' ~ query ~ ') as answers (answer) '
            ~ 'where answer is not null order by answer'
        ) -%}
        (
            {%- for row in found.rows -%}
            {{ type }} '{{ row[0] }}'{{ ', ' if not loop.last }}
            {%- else -%}
            cast(null as {{ 'timestamp(6) with time zone' if type == 'timestamp' else type }})
            {%- endfor -%}
        )
    {%- else -%}
        ({{ query }})
    {%- endif -%}
{%- endmacro %}

{#- One value, of a query of one row and one column, which is of `type`: date or timestamp. -#}
{% macro written_value(query, type='date') -%}
    {%- if execute and model.resource_type != 'unit_test' -%}
        {%- set answer = run_query('select cast((' ~ query ~ ') as varchar)').rows[0][0] -%}
        {%- if answer is none -%}
            cast(null as {{ 'timestamp(6) with time zone' if type == 'timestamp' else type }})
        {%- else -%}
            {{ type }} '{{ answer }}'
        {%- endif -%}
    {%- else -%}
        ({{ query }})
    {%- endif -%}
{%- endmacro %}
