{#-
    Create or replace a table so that one Iceberg commit, or one rename, brings all of it.

    For a model with a contract dbt-trino creates the table empty and fills it by a second statement: readers see the
    gap, and a kill in it leaves an empty table that looks built. Names and types are still held to the contract;
    not-null is held by tests instead of by the table. A temporary table is read once and dropped: it needs no layout.

    A model with `meta: {first_build: in_pieces}` is built so many dates at a time as Trino's memory holds.
-#}
{% macro trino__create_table_as(temporary, relation, sql, on_exists=None) -%}
    {%- set verb = {'replace': 'create or replace table', 'skip': 'create table if not exists'} -%}
    {%- if config.get('contract').enforced -%}
        {{ get_assert_columns_equivalent(sql) }}
        {%- set sql = get_select_subquery(sql) -%}
    {%- endif %}
    {%- set in_pieces = not temporary and config.get('meta', {}).get('first_build') == 'in_pieces' -%}
    {%- set tables = ['user_actions', 'user_actions_archive'] if in_pieces else [] -%}
    {%- set pieces = date_pieces(tables) if tables else [] -%}
    {%- if pieces | length > 1 -%}
        {{ create_table_in_pieces(relation, sql, pieces) }}
    {%- else -%}
        {{ verb.get(on_exists, 'create table') }} {{ relation }}
        {% if not temporary %}{{ properties() }}{% endif %}
        as (
            {{ sql }}
        )
    {%- endif -%}
{%- endmacro %}

{#-
    Fill a table piece by piece under another name, and give it its own at the end: what a kill leaves does not look
    built, and the next build drops it. Trino takes the condition on the dates down to the scan of the events, where it
    is the partition, through windows and groups by date.
-#}
{% macro create_table_in_pieces(relation, sql, pieces) -%}
    {%- set first_build = relation.incorporate(path={'identifier': relation.identifier ~ '__first_build'}) -%}
    {%- set date = config.get('meta')['rebuild_column'] -%}
    {%- do run_query('drop table if exists ' ~ first_build) -%}
    {%- for first, last in pieces -%}
        {%- set start = 'insert into ' ~ first_build if loop.index0 else 'create table ' ~ first_build ~ properties() ~ ' as' -%}
        {%- do run_query(
            start ~ ' select * from (' ~ sql ~ ') as piece'
            ~ ' where ' ~ date ~ " between date '" ~ first ~ "' and date '" ~ last ~ "'"
        ) -%}
    {%- endfor -%}
    {%- do run_query('drop table if exists ' ~ relation) -%}
    alter table {{ first_build }} rename to {{ relation }}
{%- endmacro %}

{#-
    The dates of tables of events, which are partitioned by `event_date`, as pairs of a first and a last one: few enough
    for the writers that are open at once, and with so few rows that a window over them fits into a query's memory.
-#}
{% macro date_pieces(tables) -%}
    {%- set pieces -%}
        with dates as (
            select event_date, sum(record_count) as record_count
            from (
                {%- for table in tables %}
                {%- set relation = source('events', table) %}
                {%- set partitions = relation.incorporate(path={'identifier': relation.identifier ~ '$partitions'}) %}
                select partition.event_date as event_date, record_count from {{ partitions }}
                {{ 'union all' if not loop.last }}
                {%- endfor %}
            )
            group by event_date
        )
        select
            cast(min(event_date) as varchar),
            cast(max(event_date) as varchar)
        from (
            select
                event_date,
                (sum(record_count) over (order by event_date) - record_count) / {{ var('piece_rows') }} as nth
            from dates
        )
        group by date_trunc('month', event_date), nth
        order by 1
    {%- endset -%}
    {{ return(run_query(pieces).rows) }}
{%- endmacro %}
