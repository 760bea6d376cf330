{#-
    A column that was promoted from an unknown field, for rows of every age: what ingest wrote into it, else what
    `unknown_fields` holds where that fits the type, by the rules of `lakehouse/promotion.py`. A test holds the two
    together.

    `path` is the column's `unknown_field` in `lakehouse/tables.py`; `type` is varchar, bigint, double, boolean or
    timestamp. In a staging model, which names the column among those it reads:

        promoted('color', 'product_information.color', 'varchar') as color
-#}
{% macro promoted(column, path, type) -%}
    {%- set place = "unknown_fields, '$[\"" ~ path.split('.') | join('"]["') ~ "\"]'" -%}
    {%- set text = 'json_extract_scalar(' ~ place ~ ')' -%}
    {%- set is_string = 'starts_with(json_format(json_extract(' ~ place ~ ")), '\"')" -%}
    {%- set zone = "'([+-])([0-9]{2}):([0-9]{2})$'" -%}
    {%- set moment -%}
        date_add(
            'minute',
            coalesce(
                if(regexp_extract({{ text }}, {{ zone }}, 1) = '-', 1, -1) * (
                    60 * cast(regexp_extract({{ text }}, {{ zone }}, 2) as bigint)
                    + cast(regexp_extract({{ text }}, {{ zone }}, 3) as bigint)
                ),
                0
            ),
            try_cast(
                replace(upper(substr({{ text }}, 1, 19)), 'T', ' ')
                || coalesce(substr(regexp_extract({{ text }}, '\.[0-9]+'), 1, 7), '')
                || ' UTC' as timestamp(6) with time zone
            )
        )
    {%- endset -%}
    {%- set rfc3339 -%}
        '\A(?!0000)[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt]([01][0-9]|2[0-3])(:[0-5][0-9]){2}(\.[0-9]+)?([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])\z'
    {%- endset -%}
    {%- set fitting = {
        'varchar': 'if(' ~ is_string ~ ', ' ~ text ~ ')',
        'bigint': 'if(not ' ~ is_string ~ ' and regexp_like(' ~ text ~ ", '^-?[0-9]+$'), try_cast(" ~ text ~ ' as bigint))',
        'double': 'if(not ' ~ is_string ~ ' and ' ~ text ~ " not in ('true', 'false'), try_cast(" ~ text ~ ' as double))',
        'boolean': 'if(not ' ~ is_string ~ ' and ' ~ text ~ " in ('true', 'false'), " ~ text ~ " = 'true')",
        'timestamp': 'if(' ~ is_string ~ ' and regexp_like(' ~ text ~ ', ' ~ rfc3339 ~ ') and year(' ~ moment
            ~ ') between 1 and 9999, ' ~ moment ~ ')',
    } -%}
    {%- if type not in fitting -%}
        {{ exceptions.raise_compiler_error('promoted: type must be one of ' ~ fitting | join(', ') ~ ', not ' ~ type) }}
    {%- endif -%}
    coalesce({{ column }}, {{ fitting[type] }})
{%- endmacro %}
