-- Health of schedules.

-- The schedules that are late, fail, are of a clock ahead, or of a full or unserved queue, with a hint for each.
-- At most 100 of each kind.
create or replace function awa._schedule_problems() returns table (
  name text, problem text, hint text, details jsonb
)
language sql stable
as $$
with now as (
  select awa._schedule_clock() as at
), no_more as (
  select 'It has no time ahead. awa.backfill_schedule enqueues the job of the time that was left out; '
           'awa.resume_schedule(name) ends this warning.' as hint
), late as (
  select s.*
    from awa.schedules s, now n
   where s.next_at is not null
     and s.error is null
     and not awa._is_ahead(s, n.at)
     and least(s.next_at, s.next_tick) < n.at - interval '1 minute'
   order by least(s.next_at, s.next_tick)
   limit 100
), failing as (
  select s.*
    from awa.schedules s, now n
   where s.error is not null
     and (s.next_at is not null or awa._has_given_up(s)) -- it may have ended
     and not awa._is_refused(s)
     and not awa._is_ahead(s, n.at)
     and (s.failures >= 10
       or least(s.next_at, s.next_tick) < n.at - interval '1 minute'
       or awa._has_given_up(s))
   order by s.name
   limit 100
), refused as (
  select s.*
    from awa.schedules s, now n
   where awa._is_refused(s)
     and (s.next_at is not null or awa._has_given_up(s))
     and not awa._is_ahead(s, n.at)
     and (least(s.next_at, s.next_tick, s.waiting_tick) < n.at - interval '1 minute' or awa._has_given_up(s))
   order by s.name
   limit 100
)
select l.name,
       format('it is late: its time was %s ago%s', awa._in_words(n.at - least(l.next_at, l.next_tick)),
         ', and it is locked by ' || h.holder) as problem,
       case
         when h.holder is null
           then 'Run workers, or call awa.run_maintenance() every few seconds. See awa.explain_schedule(name).'
         else 'Have that transaction end.'
       end as hint,
       jsonb_build_object('late_seconds', floor(extract(epoch from n.at - least(l.next_at, l.next_tick)))) as details
  from late l
  left join awa._locked_schedules h on h.name = l.name
 cross join now n
union all
select f.name,
       format('%s%s: %s', case
         when f.failures > 0 then format('it has failed to fire %s times in a row', f.failures)
         else 'another session is in its way'
       end, case when awa._has_given_up(f) then ', and its time was left out' end, f.error),
       case
         when f.next_at is null then t.hint
         when f.failures > 0
           then 'Change it, or what refuses its job. It is tried again each hour at least, or at its next time; at '
             'once after awa.resume_schedule(name).'
         else 'Have the transaction end that holds its queue, or its last job. A trigger of yours may raise this '
           'error, too. See awa.explain_schedule(name).'
       end,
       jsonb_build_object('failures', f.failures, 'failed_at', f.failed_at)
  from failing f, no_more t
union all
select r.name, format(case
         when awa._has_given_up(r) then 'its queue %s was full, and its time was left out: %s'
         else 'its queue %s is full: %s'
       end, r.queue, r.error),
       case
         when r.next_at is null then t.hint
         else 'Run more workers for the queue, or raise its max_depth with awa.configure_queue. The schedule is tried '
           'again every 5 seconds.'
       end,
       jsonb_build_object('queue', r.queue, 'failed_at', r.failed_at)
  from refused r, no_more t
union all
(
  select s.name,
         format('the clock of the server was ahead: it fires again in %s%s', awa._in_words(s.next_at - n.at),
           '; it failed then: ' || s.error),
         'awa.resume_schedule(name) lets it fire from now on. See awa.explain_schedule(name).',
         jsonb_build_object('next_at', s.next_at)
    from awa.schedules s, now n
   where s.next_at is not null and awa._is_ahead(s, n.at)
   order by s.name
   limit 100
)
union all
(
  select s.name, format('no worker works on its queue %s', s.queue),
         'Run a worker for this queue, or name another one with awa.schedule.',
         jsonb_build_object('queue', s.queue)
    from (select distinct s.queue from awa.schedules s where s.next_at is not null) q
    join awa.schedules s on s.queue = q.queue and s.next_at is not null
   where not awa._is_worked_on(q.queue)
   order by s.name
   limit 100
)
$$;
comment on function awa._schedule_problems is
  'The schedules that are late, fail, are of a clock ahead, or of a full or unserved queue, with a hint for each';

-- The rows of health about schedules: those that are late, fail, are of a clock ahead, or of a full or unserved queue.
-- One row when all is well.
create or replace function awa._health_schedules() returns table (
  ordinal int, level text, topic text, subject text, message text, hint text, details jsonb
)
language sql stable
as $$
with problems as materialized (
  select * from awa._schedule_problems()
)
select 5, 'warning', 'schedule', p.name, p.problem, p.hint, p.details from problems p
union all
select 5, 'ok', 'schedule', 'all', format('%s schedules, the next one in %s', s.schedules,
         awa._in_words(greatest(s.next_at - awa._schedule_clock(), '0'))), null,
       jsonb_build_object('next_at', s.next_at)
  from (
    select count(*) as schedules, min(s.next_at) as next_at from awa.schedules s where s.next_at is not null
  ) s
 where s.schedules > 0 and not exists (select from problems)
$$;
comment on function awa._health_schedules is
  'The rows of health about schedules: those that are late, fail, are of a clock ahead, or of a full or unserved queue';
