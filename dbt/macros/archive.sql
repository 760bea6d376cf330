{#-
    A condition on the rows of an archive table: that they count there, because their part has left the live table. The
    live table says so in properties, which it gets in the commit that takes the rows out. A query that reads both
    tables must name the live one first: Trino loads each table once for a query, in that order, and a part is in the
    archive before it leaves the live table. `lakehouse/ledger.py` has the same condition.

    The number of a part stands in the path of its files. A file without one, which a compaction could leave, counts.

    Unit tests give rows without paths, all of which count.
-#}
{% macro is_archived() -%}
    {%- set live = source('events', 'user_actions') -%}
    {%- if execute and model.resource_type != 'unit_test' -%}
        {%- set properties = live.incorporate(path={'identifier': live.identifier ~ '$properties'}) -%}
        {%- set part -%}
            coalesce(try_cast(regexp_extract("$path", '/part-([0-9]+)-', 1) as bigint), 0)
        {%- endset -%}
        {{ part }} <= (
            select coalesce(max(cast(value as bigint)), 0) from {{ properties }} where key = 'lakehouse.archive.through'
        )
        and not contains(
            (
                select coalesce(max(cast(json_parse(value) as array(bigint))), array[])
                from {{ properties }} where key = 'lakehouse.archive.restored'
            ),
            {{ part }}
        )
    {%- else -%}
        true
    {%- endif -%}
{%- endmacro %}
