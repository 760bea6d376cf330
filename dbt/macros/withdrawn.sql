{#-
    What corrections took out of the events: a corrected file replaces the rows of its earlier version, and of a date that
    only loses rows nothing arrives. So the commit that takes them out says of which dates they are, in properties of the
    events table; and before refused records are deleted, quarantine says so in its own. `lakehouse/ledger.py` has them
    too.

    A correction is told with the start of its run, as its rows are, so a build cuts on both alike. Refused records may
    be deleted much later, by the next run, and are told with the time of that.
-#}

{#- The dates of corrections whose time meets a condition, such as `>= timestamp '…'`; a query of `withdrawn_date`. -#}
{% macro withdrawn_query(condition, key='lakehouse.withdrawn') -%}
    {%- set environment = env_var('LAKEHOUSE_CATALOG__NAME') ~ '.' ~ env_var('LAKEHOUSE_PREFIX', '') -%}
    select cast(withdrawn_day as date) as withdrawn_date
    from (
        select "key", "value" from {{ environment }}events."user_actions$properties"
        union all
        select "key", "value" from {{ environment }}quarantine."user_actions$properties"
    )
    cross join unnest(cast(json_parse("value") as map(varchar, varchar))) as withdrawn (withdrawn_day, withdrawn_at)
    where "key" = '{{ key }}' and from_iso8601_timestamp(withdrawn_at) {{ condition }}
{%- endmacro %}

{#- The same as a list for `in`. -#}
{% macro withdrawn_dates(condition, key='lakehouse.withdrawn') -%}
    {%- if execute and model.resource_type != 'unit_test' -%}
        {{ written_list(withdrawn_query(condition, key)) }}
    {%- else -%}
        (cast(null as date))
    {%- endif -%}
{%- endmacro %}

{#-
    Whether a correction took events out since the model was built. A model of greatest and least values can't take a row
    back, so it is then built from all that is there, and says so by `built_from_all`.
-#}
{% macro has_withdrawals() -%}
    {%- if execute and model.resource_type != 'unit_test' and is_incremental() -%}
        {{ return(run_query('select count(*) from (' ~ withdrawn_query('>= ' ~ arrival_cut()) ~ ')').rows[0][0] > 0) }}
    {%- endif -%}
    {{ return(false) }}
{%- endmacro %}

{#- What a query says that returns every row of its model; the merge then takes out whatever is not among them. -#}
{% macro built_from_all() -%}
    /* built from all */
{%- endmacro %}
