{#-
    Incremental strategy `rebuild_partitions`: the model returns every row of each partition it rebuilds, and one
    MERGE makes those partitions equal to it. Rows whose key is no longer there are deleted, changed ones updated,
    equal ones left alone, so rebuilding too much costs reading but no writing.

    Plain `merge` would keep a group that vanished, and dbt-trino's `delete+insert` is two commits, so a reader or a
    kill between them sees days without rows. Trino has no partition overwrite on Iceberg.

    A model sets `unique_key` (a list, no nulls in it) and `meta: {rebuild_column: <what is rebuilt whole>}`: a date, or
    the id of a thing that has several rows or one. Dates are written into the join: a MERGE has no dynamic filter on
    its target, and would read all of it.
-#}
{% macro get_incremental_rebuild_partitions_sql(arg_dict) -%}
    {%- set target = arg_dict['target_relation'] -%}
    {%- set rebuilt = arg_dict['temp_relation'] -%}
    {%- set keys = arg_dict['unique_key'] -%}
    {%- set columns = arg_dict['dest_columns'] | map(attribute='name') | list -%}
    {%- set measures = columns | reject('in', keys) | list -%}
    {%- set partition = config.get('meta', {}).get('rebuild_column') -%}
    {%- if partition not in columns or keys is string or not keys -%}
        {{ exceptions.raise_compiler_error(
            'rebuild_partitions needs unique_key as a list and meta.rebuild_column, one of the columns; see '
            ~ model.original_file_path
        ) }}
    {%- endif -%}
    {%- set rebuilt_partitions = 'select distinct ' ~ partition ~ ' from ' ~ rebuilt -%}
    {%- set partition_column = arg_dict['dest_columns'] | selectattr('name', 'equalto', partition) | first -%}
    {%- set is_date = partition_column.data_type == 'date' -%}
    {%- set chosen = written_list(rebuilt_partitions) if is_date else '(' ~ rebuilt_partitions ~ ')' -%}
    {#- Where the key is all that is rebuilt, each of its rows is there again. -#}
    {%- set rows_can_vanish = keys != [partition] %}

    merge into {{ target }} as built
    using (
        select {{ columns | join(', ') }}, false as is_gone
        from {{ rebuilt }}
        {%- if rows_can_vanish %}
        union all
        select {{ columns | join(', ') }}, true as is_gone
        from {{ target }} as old
        where
            old.{{ partition }} in {{ chosen }}
            and not exists (
                select 1
                from {{ rebuilt }} as still_there
                where {% for key in keys %}still_there.{{ key }} = old.{{ key }}{{ ' and ' if not loop.last }}{% endfor %}
            )
        {%- endif %}
    ) as rebuilt
    on {% for key in keys %}built.{{ key }} = rebuilt.{{ key }}{{ ' and ' if not loop.last }}{% endfor %}
        {%- if is_date %} and built.{{ partition }} in {{ chosen }}{% endif %}
    when matched and rebuilt.is_gone then delete
    when matched and (
        {% for column in measures -%}
        built.{{ column }} is distinct from rebuilt.{{ column }}{{ ' or ' if not loop.last }}
        {%- endfor %}
    ) then update set {% for column in measures %}{{ column }} = rebuilt.{{ column }}{{ ', ' if not loop.last }}{% endfor %}
    when not matched then
        insert ({{ columns | join(', ') }})
        values ({% for column in columns %}rebuilt.{{ column }}{{ ', ' if not loop.last }}{% endfor %})
{%- endmacro %}
