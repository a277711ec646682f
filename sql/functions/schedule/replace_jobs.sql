-- Cancels the last jobs of schedules, so that the next call of fire_due fires these; returns how many fail.
-- A hundred at once. Where that fails, fewer, and at last one by itself. One whose job cannot be cancelled is noted.
-- One that another session holds is noted, and put off, which is no failure. Begins none after a quarter of a second.
-- Locks: as _replace_part.
-- Why: claims wait for its locks until the transaction ends.
create or replace function awa._replace_jobs(names text[], now timestamptz) returns int
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_until constant timestamptz := clock_timestamp() + interval '250 milliseconds';
  v_size int := least(cardinality(names), 100);
  v_wait text := '100';
  v_result record;
  v_has_decided boolean := false;
  v_failed int := 0;
begin
  while names <> '{}' loop
    exit when v_has_decided and clock_timestamp() > v_until;
    v_result := awa._replace_part(names[:v_size], v_wait);
    if v_result.problem is null then
      v_has_decided := true;
      names := names[v_size + 1:];
      v_size := least(v_size * 5, 100);
      continue;
    end if;
    v_wait := case when awa._is_passing(v_result.problem) then '10' else v_wait end; -- they have waited enough
    if v_size > 1 then
      v_size := v_size / 5 + (v_size < 5)::int;
      continue;
    elsif awa._is_passing(v_result.problem) then
      perform awa._note_held(names[1:1], array[v_result.refusal], now, true);
    else
      perform awa._note_failure(s, now, v_result.refusal) from awa.schedules s where s.name = names[1];
      v_failed := v_failed + 1;
    end if;
    v_has_decided := true;
    names := names[2:];
  end loop;
  return v_failed;
end
$$;
comment on function awa._replace_jobs is
  'Cancels the last jobs of schedules, so that the next call of fire_due fires these; returns how many fail';

-- Cancels the last jobs of schedules, all or none; waits for another session for so many milliseconds at most.
-- Returns the SQLSTATE where that fails, and its text.
-- Locks: the shards of the available jobs, and the locks of _cancel_there; until the transaction ends.
-- Why: decides at once, so that a failure is caught. The decision would wait longer for the shards, so they are locked
-- before.
create or replace function awa._replace_part(names text[], wait text, out problem text, out refusal text)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_places awa._place[];
begin
  perform set_config('lock_timeout', wait, true);
  v_places := awa._places_of(array(
    select s.last_job_id
      from unnest(names) n(name)
     cross join lateral (select * from awa.schedules s where s.name = n.name offset 0) s));
  perform awa._lock_each_shard(array(
    select distinct awa._shard_of(p.lane) from unnest(v_places) p where p.state = 'available' order by 1));
  perform awa._cancel_there(v_places, 'replaced by the next job of its schedule');
  set constraints awa.resolve immediate;
  set constraints awa.resolve deferred;
  perform set_config('lock_timeout', '0', true);
exception when others then
  if not awa._is_passing(sqlstate) and not awa._is_about_a_row(sqlstate) then
    raise;
  end if;
  problem := sqlstate;
  refusal := awa._refusal(sqlerrm, sqlstate);
end
$$;
comment on function awa._replace_part is
  'Cancels the last jobs of schedules, all or none; waits for another session for so many milliseconds at most';
