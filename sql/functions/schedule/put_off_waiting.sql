-- Puts off those of some due schedules that go on waiting for their last jobs; returns the others, in their order.
-- The others have to be looked at by themselves: the job has ended, another tick has come, or the zone has other data;
-- or all of them, where one can't be read.
-- Locks: nothing more; the caller has locked them.
-- Why: most looks find that the job still runs. They cost one look at all of the jobs, and one statement.
create or replace function awa._put_off_waiting(due text[], now timestamptz) returns text[]
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_states constant text[] := awa._last_states(due);
  v_waits text[];
begin
  if v_states is null then
    return due;
  end if;
  v_waits := array(
    select s.name
      from unnest(due, v_states) d(name, state)
     cross join lateral (select * from awa.schedules s where s.name = d.name offset 0) s
     where s.overlap = 'wait'
       and d.state <> all(awa._states('ended'))
       and not s.waiting_tick <@ s.ran
       and (s.next_tick > now and s.next_wall = s.next_tick at time zone (':' || s.timezone)) is not false);
  update awa.schedules s set next_at = awa._next_look(s.waiting_tick, now) where s.name = any(v_waits);
  return array(select d.name from unnest(due) with ordinality d(name, n) where d.name <> all(v_waits) order by d.n);
exception when others then
  if not awa._is_about_a_row(sqlstate) then
    raise;
  end if;
  return due;
end
$$;
comment on function awa._put_off_waiting is
  'Puts off those of some due schedules that go on waiting for their last jobs; returns the others, in their order';

-- When to look again at a schedule whose tick can't fire yet: after a tenth of the time that the tick has waited.
-- That is after a second at first, and after 30 seconds at most. In the middle of a second.
-- Why: schedules fire when a second begins, and those that wait are looked at together, half a second later.
create or replace function awa._next_look(tick timestamptz, now timestamptz) returns timestamptz
language sql stable
return date_trunc('second', now + interval '500 milliseconds'
  + greatest(least((now - coalesce(tick, now)) / 10, '30 seconds'), '1 second')) - interval '500 milliseconds';
comment on function awa._next_look is
  'When to look again at a schedule whose tick can''t fire yet: after a tenth of the time that the tick has waited';

-- Whether schedules are due that wait for their last jobs.
create or replace function awa._has_waiting(now timestamptz) returns boolean
language plpgsql stable
as $$
#variable_conflict use_variable
begin
  return exists (
    select from awa.schedules s where s.next_at <= now and s.waiting_tick is not null and s.failures = 0);
end
$$;
comment on function awa._has_waiting is 'Whether schedules are due that wait for their last jobs';

-- Notes why schedules could not fire, since another session holds them, and puts them off as those that wait.
-- Those that are due for less than ten seconds stay as they are, unless all are to be put off. A new tick is looked at
-- once more before it is a minute old, and so a missed one.
-- Why: it is no failure, most sessions end soon, and the next call fires them then. One that stays would keep each call
-- waiting, and nobody would see why.
create or replace function awa._note_held(names text[], errors text[], now timestamptz, is_all boolean) returns void
language plpgsql
as $$
#variable_conflict use_variable
begin
  if names <> '{}' then
    update awa.schedules s
       set error = n.error, failed_at = now,
           next_at = least(awa._next_look(coalesce(s.waiting_tick, s.next_tick), now), case
             when s.waiting_tick is null and s.next_tick > now - interval '1 minute'
               then greatest(now + interval '1 second', s.next_tick + interval '59 seconds')
           end)
      from (select unnest(names) as name, unnest(errors) as error) n
     where s.name = any(array[n.name]) -- as in _fire_together
       and (is_all or coalesce(s.waiting_tick, s.next_tick) < now - interval '10 seconds');
  end if;
end
$$;
comment on function awa._note_held is
  'Notes why schedules could not fire, since another session holds them, and puts them off as those that wait';
