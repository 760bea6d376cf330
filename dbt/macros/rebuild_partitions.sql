{#-
    Incremental strategy `rebuild_partitions`: the model returns every row of each partition it rebuilds, and one
    MERGE makes those partitions equal to it. Rows whose key is no longer there are deleted, changed ones updated,
    equal ones left alone, so rebuilding too much costs reading but no writing.

    Plain `merge` would keep a group that vanished, and dbt-trino's `delete+insert` is two commits, so a reader or a
    kill between them sees days without rows. Trino has no partition overwrite on Iceberg.

    A correction that took events out may leave a partition without any row. A model whose query reads the dates of
    corrections names their property in `meta: {withdrawn: <property>}`, and then those dates are rebuilt too. What the
    model returns was chosen when its query was compiled, so a correction that comes later is for the next build.

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
    {#- A partition of which nothing is left is not in the result, and its rows have to go all the same. -#}
    {%- set withdrawn = config.get('meta', {}).get('withdrawn') -%}
    {%- set is_whole = built_from_all() in compiled_code -%}
    {%- set rebuilt_partitions -%}
        select distinct {{ partition }} from {{ rebuilt }}
        {%- if withdrawn %}
        {%- set days = run_query('select cast(withdrawn_date as varchar) from (' ~ withdrawn_query('>= ' ~ arrival_cut(), withdrawn) ~ ')') %}
        {%- for day in days.columns[0].values() if "date '" ~ day ~ "'" in compiled_code %}
        union select date '{{ day }}'
        {%- endfor %}
        {%- endif -%}
    {%- endset -%}
    {%- set partition_column = arg_dict['dest_columns'] | selectattr('name', 'equalto', partition) | first -%}
    {%- set is_date = partition_column.data_type == 'date' -%}
    {%- set chosen = written_list(rebuilt_partitions) if is_date else '(' ~ rebuilt_partitions ~ ')' -%}
    {#- Where the key is all that is rebuilt, each of its rows is there again. -#}
    {%- set rows_can_vanish = is_whole or keys != [partition] or withdrawn %}

    merge into {{ target }} as built
    using (
        select {{ columns | join(', ') }}, false as is_gone
        from {{ rebuilt }}
        {%- if rows_can_vanish %}
        union all
        select {{ columns | join(', ') }}, true as is_gone
        from {{ target }} as old
        where
            {% if not is_whole -%} old.{{ partition }} in {{ chosen }} and {% endif -%}
            not exists (
                select 1
                from {{ rebuilt }} as still_there
                where {% for key in keys %}still_there.{{ key }} = old.{{ key }}{{ ' and ' if not loop.last }}{% endfor %}
            )
        {%- endif %}
    ) as rebuilt
    on {% for key in keys %}built.{{ key }} = rebuilt.{{ key }}{{ ' and ' if not loop.last }}{% endfor %}
        {%- if is_date and not is_whole %} and built.{{ partition }} in {{ chosen }}{% endif %}
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
