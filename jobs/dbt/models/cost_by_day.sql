select
  job,
  cast(sent_at as date) as day,
  count(*) as attempts,
  sum(case when state = 'ok' then 1 else 0 end) as answers,
  sum(cost_usd) as cost_usd
from {{ source('batchvision', 'batchvision_attempts') }}
group by job, cast(sent_at as date)
