{#-
    The dates of ads that changed since `cut`: those of impressions that arrived, and those where purchases arrived, or a
    correction took events out, and there are impressions. Without that last condition a build would look at every date
    of events for as long as there are no ads.

    A date that lost its last purchase keeps the rows of its impressions, so the model is among those that return every
    date they rebuild, and needs no `withdrawn` in its meta.
-#}
{% macro touched_ad_dates(impressions, events, cut) -%}
    {%- set changed -%}
        select event_date from {{ events }} where event_name = 'purchase' and ingested_at >= {{ cut }}
        {%- if execute and model.resource_type != 'unit_test' %}
        union select withdrawn_date from ({{ withdrawn_query('>= ' ~ cut) }})
        {%- endif -%}
    {%- endset -%}
    {{ written_list(
        'select distinct event_date from ' ~ impressions ~ ' where arrived_at >= ' ~ cut
        ~ ' union select event_date from (' ~ changed ~ ') as changed (event_date)'
        ~ ' where event_date in (select event_date from ' ~ impressions ~ ')'
    ) }}
{%- endmacro %}
