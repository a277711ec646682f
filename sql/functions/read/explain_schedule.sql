-- Explains in words when a schedule fires next, and why it does not fire now.
-- Times are shown in the zone of the schedule, or in UTC where that is gone.
-- Raises 22023, JQ007.
create or replace function awa.explain_schedule(name text) returns text
language plpgsql stable
security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
set enable_seqscan = off
set enable_bitmapscan = on
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
set timezone = 'UTC'
as $$
#variable_conflict use_variable
declare
  v_now constant timestamptz := awa._schedule_clock();
  v_schedule awa.schedules;
  v_due timestamptz;
  v_state text;
  v_again text;
  v_says text;
begin
  perform awa._check_name('name', name);
  begin
    perform set_config('timezone', s.timezone, true) from awa.schedules s where s.name = name;
  exception when invalid_parameter_value then
    null; -- the zone is gone
  end;
  select s.* into v_schedule from awa.schedules s where s.name = name;
  if not found then
    perform awa._refuse_schedule(name);
  end if;
  v_due := coalesce(v_schedule.waiting_tick, v_schedule.next_tick);
  v_state := coalesce(awa._state_of(v_schedule.last_job_id), 'gone');
  v_again := coalesce('It is tried again at ' || v_schedule.next_at,
    'It has no time ahead, and does not fire any more');
  v_says := case
    when v_schedule.removed_at is not null
      then format('It was removed at %s by %s.', v_schedule.removed_at, v_schedule.changed_by)
    when v_schedule.paused_at is not null
      then format('It is paused since %s by %s%s. resume_schedule lets it fire from then on; what fell into the pause '
        'is not missed.', v_schedule.paused_at, v_schedule.paused_by,
        ': ' || nullif(v_schedule.pause_reason, ''))
    when awa._is_ahead(v_schedule, v_now)
      then format('The clock of the server was ahead: what came up to then has fired, or was left out, and it fires '
        'again at %s. resume_schedule lets it fire from now on.%s', coalesce(v_schedule.next_at::text, 'no time'),
        ' It failed then: ' || v_schedule.error || '.')
    when awa._is_refused(v_schedule)
      then format('Its queue %s was full at %s: %s. %s.', v_schedule.queue, v_schedule.failed_at, v_schedule.error,
        v_again)
    when v_schedule.failures > 0
      then format('It has failed to fire %s times in a row, the last time at %s: %s. %s.', v_schedule.failures,
        v_schedule.failed_at, v_schedule.error,
        v_again || case when v_schedule.next_at is null then '' else ', or at once after resume_schedule' end)
    when v_schedule.error is not null
      then format('%s could not fire at %s, since another session is in its way: %s. %s.',
        case when awa._has_given_up(v_schedule) then 'A time' else 'Its time ' || v_due end, v_schedule.failed_at,
        v_schedule.error, v_again)
    when v_schedule.waiting_tick is not null and v_schedule.overlap = 'wait'
      then format('Its time %s waits for job %s to end, which is %s.', v_schedule.waiting_tick, v_schedule.last_job_id,
        v_state)
    when v_due is null and v_schedule.ends_at <= v_now
      then format('It has ended at %s, and does not fire any more.', v_schedule.ends_at)
    when v_due is null then 'It has no time ahead, and does not fire any more.'
    when v_schedule.next_at <= v_now and v_schedule.overlap = 'replace' and v_state = any(awa._states('live'))
      then format('Its time %s waits for job %s to be cancelled, which is %s.', v_due, v_schedule.last_job_id,
        v_state)
    when v_schedule.next_at <= v_now
      then format('It is due since %s: it fires when maintenance calls fire_due. If it stays due, maintenance is late.',
        v_due)
    else format('It fires in %s, at %s.', awa._span(v_schedule.next_tick - v_now), v_schedule.next_tick)
  end;
  v_says := concat_ws(' ', v_says,
    case
      when awa._has_given_up(v_schedule) then 'The time that could not fire was missed by then, and left out.'
    end);
  if v_schedule.paused_at is null and v_schedule.next_tick is not null then
    v_says := concat_ws(' ', v_says,
      (
        select format('It is locked by %s, and does not fire until that transaction ends.', l.holder)
          from awa._locked_schedules l
         where l.name = name
      ),
      (
        select format('Its queue is paused since %s: nothing is claimed from it.', q.paused_at)
          from awa.queue_settings q
         where q.queue_id = awa._queue_id(v_schedule.queue) and q.paused_at is not null
      ),
      case
        when v_schedule.overlap = 'skip' and v_state = any(awa._states('live'))
          then format('Its times are left out while job %s has not ended, which is %s.', v_schedule.last_job_id,
            v_state)
      end,
      case
        when not awa._is_worked_on(v_schedule.queue) then format('No worker works on its queue %s.', v_schedule.queue)
      end);
  end if;
  return concat_ws(' ',
    case
      when awa._is_restored()
        then 'The database was restored from a dump: no schedule fires before rebase_after_restore was called.'
    end,
    v_says,
    case
      when v_schedule.last_tick is null then 'It has not fired yet.'
      else format('Its last time was %s.', v_schedule.last_tick)
    end,
    case
      when v_schedule.last_job_id is not null
        then format('Its last job is %s, which is %s.', v_schedule.last_job_id, v_state)
    end,
    case
      when v_schedule.times_missed > 0 then format('Left out because they were missed: %s.', v_schedule.times_missed)
    end,
    case
      when v_schedule.times_skipped > 0
        then format('Left out because the last job had not ended: %s.', v_schedule.times_skipped)
    end);
end
$$;
comment on function awa.explain_schedule is
  'Explains in words when a schedule fires next, and why it does not fire now';
