-- In its own week all of a cohort is active, because the first event lies in it; later there are at most as many.
select
    cohort_week,
    weeks_since_first,
    cohort_user_count,
    active_user_count
from {{ ref('fct_retention_weekly') }}
where
    weeks_since_first < 0
    or active_user_count > cohort_user_count
    or (weeks_since_first = 0 and active_user_count <> cohort_user_count)
