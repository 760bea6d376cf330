{#-
    What arrived since a table was built, in event dates. All incremental models cut by these macros.

    Every incremental table has a column `last_ingested_at`: the newest arrival among the events of the row. Its maximum
    was seen by a build, and whatever that build did not see was committed after it; rows are committed at most
    `arrival_overlap_hours` after the `ingested_at` they carry, so all of it has a later one than the maximum less the
    overlap. A maximum that is too old (the newest arrivals lay in rows that are gone) only finds more than is new, and
    finding an event twice is harmless: a rebuild gives what it gave before. So there is no log of builds beside the
    tables that could disagree with them.
-#}

{#-
    The newest arrival that a table holds or held; null while it is empty.
    From the bounds in Iceberg's metadata, which know it without opening a data file, however long the history is.
-#}
{% macro built_through(relation, arrived='last_ingested_at') -%}
    {%- if execute and model.resource_type != 'unit_test' -%}
        {%- set partitions = relation.incorporate(path={'identifier': relation.identifier ~ '$partitions'}) -%}
        {{ written_value('select max(data.' ~ arrived ~ '.max) from ' ~ partitions, 'timestamp') }}
    {%- else -%}
        (select max({{ arrived }}) from {{ relation }})
    {%- endif -%}
{%- endmacro %}

{#-
    Everything that arrived from this moment on may be new to the model; of an empty table, everything.

    A build that is asked to take in again what arrived since some time cuts there, when that is earlier.
-#}
{% macro arrival_cut() -%}
    {%- set own -%}
        coalesce({{ built_through(this) }}, timestamp '1970-01-01 00:00:00.000000 UTC')
        - interval '{{ var("arrival_overlap_hours") }}' hour
    {%- endset -%}
    {#- Asked for at run time only: what is read while models are parsed makes dbt parse them anew when it changes. -#}
    {%- set since = env_var('LAKEHOUSE_ARRIVED_SINCE', '') if execute else '' -%}
    {%- if since -%} least({{ own }}, timestamp '{{ since }}') {%- else -%} {{ own }} {%- endif -%}
{%- endmacro %}

{#-
    The event dates that arrivals touched since the model was built, for `in`.

    `arrived` is the column of `relation` that says when its rows arrived. With `days_before` and `days_after` also the
    dates that lie so many days before and after a touched one: those whose window a touched date is in.
-#}
{% macro touched_dates(relation, arrived='last_ingested_at', days_before=0, days_after=0) -%}
    {%- set touched = touched_query(relation, arrived) -%}
    {%- if days_before or days_after -%}
        {%- set touched -%}
            select distinct date_add('day', shift, event_date)
            from ({{ touched }})
            cross join unnest(sequence({{ -days_before }}, {{ days_after }})) as shifts (shift)
        {%- endset -%}
        {{ written_list(touched) }}
    {%- else -%}
        {{ written_list(touched) }}
    {%- endif -%}
{%- endmacro %}

{#- The event dates of what arrived since the model was built, and those that a correction took events from since. -#}
{% macro touched_query(relation, arrived) -%}
    {%- set cut = arrival_cut() -%}
    select distinct event_date from {{ relation }} where {{ arrived }} >= {{ cut }}
    {%- if execute and model.resource_type != 'unit_test' %}
    union select withdrawn_date from ({{ withdrawn_query('>= ' ~ cut) }})
    {%- endif -%}
{%- endmacro %}

{#- The first event date that arrivals touched since the model was built; null when there were none. -#}
{% macro first_touched_date(relation) -%}
    {{ written_value('select min(event_date) from (' ~ touched_query(relation, 'last_ingested_at') ~ ')') }}
{%- endmacro %}

{#- The event dates of what arrived lately, for tests that must not read a whole history. -#}
{% macro tested_dates() -%}
    {{ written_list(
        'select distinct event_date from ' ~ ref('stg_events__user_actions')
        ~ " where ingested_at >= current_timestamp - interval '" ~ var('tested_days') ~ "' day"
    ) }}
{%- endmacro %}
