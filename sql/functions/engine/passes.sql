-- What passes of maintenance have in common.

-- Refuses what maintenance does not take.
create or replace function awa._check_pass(max_jobs int) returns void
language plpgsql
as $$
begin
  if max_jobs not between 1 and 10000 then
    perform awa._refuse('max_jobs must be between 1 and 10000', max_jobs::text, 'Leave it out for 1000.');
  end if;
  perform awa._check_isolation();
end
$$;
comment on function awa._check_pass is 'Refuses what maintenance does not take';

-- How long a step of maintenance may take: no longer than most, nor than its share of what the caller's timeouts allow. Of a transaction_timeout, too, which ends the session.
create or replace function awa._budget(most interval, share int) returns interval
language sql stable
return least(most, nullif(current_setting('statement_timeout')::interval, '0') / share, nullif(current_setting('transaction_timeout', true)::interval, '0') / share);
comment on function awa._budget is 'How long a step of maintenance may take';

-- A time for a sequence.
create or replace function awa._microseconds(at timestamptz) returns bigint
language sql immutable
return greatest(extract(epoch from at) * 1000000, 1)::bigint;
comment on function awa._microseconds is 'A time for a sequence, in microseconds since 1970';

-- When a try to empty the oldest segment began last.
create or replace function awa._last_prune_at() returns timestamptz
language sql stable
as $$ select to_timestamp(s.last_value / 1000000.0) from awa.prune_tried_at s $$;
comment on function awa._last_prune_at is 'When a try to empty the oldest segment began last';

-- When maintenance was called last; null when it never was. promote_due alone is none: workers call it more often.
create or replace function awa._maintained_at() returns timestamptz
language sql stable
return (
  select greatest((select to_timestamp(s.last_value / 1000000.0) from awa.rescued_at s where s.is_called), (select g.ended_at from awa.rescue_gaps g order by g.began_at desc, g.ended_at desc limit 1)));
comment on function awa._maintained_at is 'When maintenance was called last';
