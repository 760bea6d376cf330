-- Who came on the date came in its week, and who came in the week came in the month; who bought came.
select
    event_date,
    buyer_count,
    daily_user_count,
    weekly_user_count,
    monthly_user_count
from {{ ref('fct_active_users_daily') }}
where
    buyer_count > daily_user_count
    or daily_user_count > weekly_user_count
    or weekly_user_count > monthly_user_count
