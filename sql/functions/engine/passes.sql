-- Passes of maintenance: their order, periods and clocks.

-- The passes of maintenance, in the order in which run_maintenance goes through them, and how long each is not due
-- again once it has succeeded.
-- Order: fold comes before the passes that search for open attempts, since they read all claims that are not counted. A
-- stuck claimer holds a queue, which prune_oldest may need. rescue ends attempts before materialize gives rows to the
-- others, and before forget_workers looks for attempts of silent workers. summarize comes before rotate, which
-- completes the segment that it leaves.
-- Period: shorter than the time between two calls of one worker, a second for prompt passes, five for the rest, a fifth
-- sooner or later. So one worker alone leaves none out, and rescue finds no gap. Ten workers do each pass about
-- as often as one does.
create or replace view awa.passes as
select p.position, p.pass, p.period
  from (values
    (1, 'promote_due', interval '0.5 seconds'),
    (2, 'fire_due', '0.5 seconds'),
    (3, 'fold', '4 seconds'),
    (4, 'end_stuck_claimers', '4 seconds'),
    (5, 'rescue', '4 seconds'),
    (6, 'materialize', '4 seconds'),
    (7, 'cancel_expired', '4 seconds'),
    (8, 'apply_changes', '4 seconds'),
    (9, 'expire_history', '4 seconds'),
    (10, 'summarize', '4 seconds'),
    (11, 'rotate', '4 seconds'),
    (12, 'prune_oldest', '4 seconds'),
    (13, 'forget_workers', '4 seconds')
  ) p(position, pass, period);
comment on view awa.passes is
  'The passes of maintenance, in their order, and how long each is not due again once it has succeeded';

-- The passes of maintenance, in the order in which run_maintenance goes through them.
create or replace function awa._passes() returns text[]
language sql immutable parallel safe
as $$ select array_agg(p.pass order by p.position) from awa.passes p $$;
comment on function awa._passes is 'The passes of maintenance, in the order in which run_maintenance goes through them';

-- Remembers that a pass has succeeded: moves its clock, at most once a second.
-- A pass calls this at its end.
create or replace function awa._note_success(pass text) returns void
language plpgsql
as $$
declare
  v_clock regclass := 'awa.pass_clock_' || pass;
  v_now bigint := awa._microseconds(clock_timestamp());
begin
  -- before, or a clock that was ahead
  if coalesce(pg_sequence_last_value(v_clock), 0) not between v_now - 1000000 and v_now then
    perform setval(v_clock, v_now);
  end if;
end
$$;
comment on function awa._note_success is 'Remembers that a pass has succeeded: moves its clock, at most once a second';

-- When a pass has succeeded last, to the second; null when it never has.
create or replace function awa._succeeded_at(pass text) returns timestamptz
language sql stable
return to_timestamp(pg_sequence_last_value(('awa.pass_clock_' || pass)::regclass) / 1000000.0);
comment on function awa._succeeded_at is 'When a pass has succeeded last, to the second; null when it never has';

-- How long a pass that has succeeded is not due again.
create or replace function awa._pass_period(pass text) returns interval
language sql immutable parallel safe
as $$ select p.period from awa.passes p where p.pass = _pass_period.pass $$;
comment on function awa._pass_period is 'How long a pass that has succeeded is not due again';

-- Makes a pass due again, since it has left work.
create or replace function awa._make_due(pass text) returns void
language sql
as $$
  select setval(('awa.pass_clock_' || pass)::regclass,
    awa._microseconds(clock_timestamp() - awa._pass_period(pass)))
$$;
comment on function awa._make_due is 'Makes a pass due again, since it has left work';

-- Refuses invalid arguments of a pass, other isolation levels, a restored database, and missing rows.
-- Raises 22023, JQ004, 55000.
-- Why: in a restored database transaction ids do not tell which rows are visible.
create or replace function awa._check_pass(max_jobs int) returns void
language plpgsql
as $$
begin
  if max_jobs not between 1 and 10000 then
    perform awa._refuse('max_jobs must be between 1 and 10000', max_jobs::text, 'Leave it out for 1000.');
  end if;
  perform awa._check_isolation(), awa._check_rows();
end
$$;
comment on function awa._check_pass is
  'Refuses invalid arguments of a pass, other isolation levels, a restored database, and missing rows';

-- How long a step of maintenance may take.
-- At most most, and at most its share of the time that the caller's timeouts allow; of a transaction_timeout, too,
-- which ends the session.
create or replace function awa._budget(most interval, share int) returns interval
language sql stable
return least(most, nullif(current_setting('statement_timeout')::interval, '0') / share,
  nullif(current_setting('transaction_timeout', true)::interval, '0') / share);
comment on function awa._budget is 'How long a step of maintenance may take';

-- When a step of a call that began at a time is to end.
-- That is after most at most, and after its share of the time that the caller's timeouts left then.
create or replace function awa._step_end(began_at timestamptz, most interval, share int) returns timestamptz
language sql stable
return began_at + least(most,
  (statement_timestamp() + nullif(current_setting('statement_timeout')::interval, '0') - began_at) / share,
  (transaction_timestamp() + nullif(current_setting('transaction_timeout', true)::interval, '0') - began_at) / share);
comment on function awa._step_end is 'When a step of a call that began at a time is to end';

-- From which time on deferred jobs are looked for that are due, or come next: where the last pass has ended.
-- Ten seconds earlier, for jobs that were committed late: always, or unless a pass has looked there within the last
-- second. A horizon ahead of now was written by a clock that was set back.
-- Why: a transaction elsewhere may keep all rows that were promoted within these ten seconds.
create or replace function awa._due_from(now timestamptz, looks_back boolean) returns timestamptz
language plpgsql stable
as $$
declare
  v_until timestamptz := (
    select to_timestamp(p.last_value / 1000000.0) from awa.promoted_until p where p.is_called
  );
begin
  return case
    when v_until is null then '-infinity'
    when not looks_back and v_until <= now
     and awa._succeeded_at('promote_due') between now - interval '1 second' and now
      then v_until
    else least(v_until, now) - interval '10 seconds'
  end;
end
$$;
comment on function awa._due_from is
  'From which time on deferred jobs are looked for that are due, or come next: where the last pass has ended';

-- When the next deferred job is due.
-- Why: begins where the last pass has ended, since a transaction elsewhere may keep millions of promoted rows before.
create or replace function awa._next_deferred() returns timestamptz
language plpgsql stable
as $$
declare
  v_from constant timestamptz := awa._due_from(clock_timestamp(), false);
begin
  return (select d.run_at from awa.deferred_jobs d where d.run_at >= v_from order by d.run_at, d.job_id limit 1);
end
$$;
comment on function awa._next_deferred is 'When the next deferred job is due';

-- A time for a sequence, in microseconds since 1970.
create or replace function awa._microseconds(at timestamptz) returns bigint
language sql immutable
return greatest(extract(epoch from at) * 1000000, 1)::bigint;
comment on function awa._microseconds is 'A time for a sequence, in microseconds since 1970';

-- Whether promote_due is to sweep again: the last time it had more to look at, or its pause is over.
create or replace function awa._sweeps_on() returns boolean
language sql
return (select s.last_value <= awa._microseconds(clock_timestamp()) from awa.next_sweep_at s);
comment on function awa._sweeps_on is
  'Whether promote_due is to sweep again: the last time it had more to look at, or its pause is over';

-- When a try to empty the oldest segment began last; 1970 when it came to its end.
create or replace function awa._last_prune_at() returns timestamptz
language sql stable
as $$ select to_timestamp(s.last_value / 1000000.0) from awa.prune_tried_at s $$;
comment on function awa._last_prune_at is
  'When a try to empty the oldest segment began last; 1970 when it came to its end';

-- When maintenance was called last; null when it never was.
-- Why: promote_due alone does not count, since workers call it more often.
create or replace function awa._maintained_at() returns timestamptz
language sql stable
return (
  select greatest((select to_timestamp(s.last_value / 1000000.0) from awa.rescue_called_at s where s.is_called),
    (select g.ended_at from awa.rescue_gaps g order by g.began_at desc, g.ended_at desc limit 1)));
comment on function awa._maintained_at is 'When maintenance was called last; null when it never was';
