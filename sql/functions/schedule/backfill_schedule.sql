-- Enqueues the jobs of a schedule for times that are over, from one time up to, but without, another one.
-- Returns their ids, max_jobs (1 to 10,000) at most: call it again until it returns none. Each time once, so those that
-- ran are left out. With repeat they are enqueued again, so a second call would begin anew: more times than max_jobs
-- are refused. The ticks go on as before, and overlap is not looked at. Also for a schedule that is paused, and for
-- times before it was made; an interval without starts_at has none of these, since it counts from then. Refused without
-- repeat where it is not known any more which times ran: between the oldest of more than 100 gaps, and before the
-- expression was another one.
-- Locks: the schedule, until the transaction ends; meanwhile it does not fire.
-- Raises 22023, JQ007; JQ006, 55000, 55P03, 40001 as enqueue does.
create or replace function awa.backfill_schedule(
  name     text,
  "from"   timestamptz,
  "to"     timestamptz,
  max_jobs int default 1000,
  repeat   boolean default false
) returns setof bigint
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
set lock_timeout = 0
as $$
declare
  v_max constant int := coalesce(max_jobs, 1000);
  v_schedule awa.schedules;
  v_cron awa.cron_row;
  v_zone text;
  v_tick timestamptz;
  v_first timestamptz;
  v_last timestamptz;
  v_jobs int := 0;
begin
  if not isfinite("from") is true then
    perform awa._refuse('from must be a time', "from"::text, 'Pass the first time that may come.');
  elsif not "to" >= "from" is true then
    perform awa._refuse('to must be a time, and not before from', "to"::text,
      'Pass the time before which the last one may come.');
  elsif "to" > awa._schedule_clock() then
    perform awa._refuse('to must not lie ahead', "to"::text, 'Times that are ahead fire by themselves.');
  elsif v_max not between 1 and 10000 then
    perform awa._refuse('max_jobs must be between 1 and 10000', v_max::text, 'Leave it out for 1000.');
  end if;
  v_schedule := awa._lock_schedule(name);
  v_cron := awa._cron_of(v_schedule.cron_bits);
  v_zone := awa._zone(v_schedule.timezone);
  if repeat then
    perform awa._check_repeat(v_schedule, v_cron, v_zone, "from", "to", v_max);
  else
    perform awa._check_sure(v_schedule, v_cron, v_zone, "from", "to");
  end if;
  v_tick := awa._tick_after(v_schedule, v_cron, v_zone, "from" - interval '1 microsecond');
  v_first := v_tick;
  while v_tick < "to" and v_jobs < v_max loop
    v_last := v_tick;
    if v_tick <@ v_schedule.ran and repeat is not true then
      v_last := least("to", (select upper(r) from unnest(v_schedule.ran) r where v_tick <@ r));
    else
      return next awa._enqueue_tick(v_schedule, v_tick, checks_depth => v_jobs = 0);
      v_jobs := v_jobs + 1;
    end if;
    v_tick := awa._tick_after(v_schedule, v_cron, v_zone, v_last);
  end loop;
  if v_jobs > 0 then
    update awa.schedules s
       set (ran, unsure) = (
         select r.ran, r.unsure from awa._with_ran(v_schedule.ran, v_schedule.unsure, v_first, v_last) r)
     where s.name = v_schedule.name;
  end if;
  perform awa._note_change('backfill_schedule', jsonb_build_object('schedule', name),
    jsonb_build_object('from', "from", 'to', "to", 'repeat', repeat), v_jobs);
end
$$;
comment on function awa.backfill_schedule is
  'Enqueues the jobs of a schedule for times that are over, from one time up to, but without, another one';

-- Refuses times of which it is not known whether they ran.
-- Raises 22023.
create or replace function awa._check_sure(
  schedule awa.schedules,
  cron awa.cron_row,
  zone text,
  "from" timestamptz,
  "to" timestamptz
) returns void
language plpgsql
as $$
begin
  if not isempty(schedule.unsure)
    and awa._tick_after(schedule, cron, zone, greatest("from" - interval '1 microsecond', lower(schedule.unsure)))
      < least("to", upper(schedule.unsure))
  then
    perform awa._refuse('from and to must leave out times of which it is not known whether they ran',
      format('%s and %s', "from", "to"),
      format('These lie between %s and %s: the schedule had other times then, or many gaps. With repeat => true, all '
        'of them are enqueued, also those that ran. See awa.jobs.', lower(schedule.unsure), upper(schedule.unsure)));
  end if;
end
$$;
comment on function awa._check_sure is 'Refuses times of which it is not known whether they ran';

-- Refuses to enqueue more times than max_jobs again, since the next call could not go on from there.
-- Raises 22023.
create or replace function awa._check_repeat(
  schedule awa.schedules,
  cron awa.cron_row,
  zone text,
  "from" timestamptz,
  "to" timestamptz,
  max_jobs int
) returns void
language plpgsql
as $$
declare
  v_tick timestamptz := "from" - interval '1 microsecond';
begin
  for i in 0..max_jobs loop
    v_tick := awa._tick_after(schedule, cron, zone, v_tick);
    if v_tick is null or v_tick >= "to" then
      return;
    end if;
  end loop;
  perform awa._refuse('max_jobs must be at least the number of times, where repeat is true', max_jobs::text,
    format('Pass smaller ranges, one after the other: so many times lie before %s; pass this as to, and as the next '
      'from.', v_tick));
end
$$;
comment on function awa._check_repeat is
  'Refuses to enqueue more times than max_jobs again, since the next call could not go on from there';
