{#-
    Create or replace a table in one statement, so that one Iceberg commit swaps all of it.

    For a model with a contract dbt-trino creates the table empty and fills it by a second statement: readers see the
    gap, and a kill in it leaves an empty table that looks built. Names and types are still held to the contract;
    not-null is held by tests instead of by the table. A temporary table is read once and dropped: it needs no layout.
-#}
{% macro trino__create_table_as(temporary, relation, sql, on_exists=None) -%}
    {%- set verb = {'replace': 'create or replace table', 'skip': 'create table if not exists'} -%}
    {%- if config.get('contract').enforced -%}
        {{ get_assert_columns_equivalent(sql) }}
        {%- set sql = get_select_subquery(sql) -%}
    {%- endif %}
    {{ verb.get(on_exists, 'create table') }} {{ relation }}
    {% if not temporary %}{{ properties() }}{% endif %}
    as (
        {{ sql }}
    )
{%- endmacro %}
