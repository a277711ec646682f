-- Whether schedules have to be refreshed in a pass, by when the last one has succeeded: once a minute.
-- Why: not when a minute begins. Most schedules fire then, and their jobs would wait for it.
create or replace function awa._is_time_to_refresh(last timestamptz, now timestamptz) returns boolean
language sql immutable
return date_trunc('minute', last - interval '37 seconds', 'UTC')
  is distinct from date_trunc('minute', now - interval '37 seconds', 'UTC');
comment on function awa._is_time_to_refresh is
  'Whether schedules have to be refreshed in a pass, by when the last one has succeeded: once a minute';

-- Forgets schedules that were removed 30 days ago, and makes those due whose zone has other data by now.
-- These are the ones whose next tick was computed with other data. Skips those that others hold.
-- Locks: these schedules, until the transaction ends.
create or replace function awa._refresh_schedules(now timestamptz) returns void
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_zone text;
begin
  delete from awa.schedules s
   where s.name = any(array(
     select s.name from awa.schedules s
      where s.removed_at < now - interval '30 days' limit 1000 for update skip locked));
  perform awa._refresh_expressions(now);
  for v_zone in select distinct s.timezone from awa.schedules s where s.next_tick is not null loop
    begin
      update awa.schedules s
         set next_at = now
       where s.name = any(array(
         select s.name
           from awa.schedules s
          where s.timezone = v_zone
            and s.next_at > now
            and s.next_wall <> s.next_tick at time zone (':' || v_zone)
            for update skip locked));
    exception when data_exception then
      null; -- the zone is gone: they fail when they are due
    end;
  end loop;
end
$$;
comment on function awa._refresh_schedules is
  'Forgets schedules that were removed 30 days ago, and makes those due whose zone has other data by now';

-- Reads a sixtieth of the expressions anew, and has schedules whose expression means something else now look again.
-- One that is refused now goes on as it was read before. Skips schedules that others hold.
-- Locks: the schedules that it changes, until the transaction ends.
-- Why: a new version of Awa may read an expression otherwise than the one that stored it.
create or replace function awa._refresh_expressions(now timestamptz) returns void
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_old record;
  v_bits bigint[];
begin
  for v_old in
    select distinct s.cron, s.cron_bits
      from awa.schedules s
     where get_byte(sha256(convert_to(s.cron, 'UTF8')), 0) % 60 = extract(minute from now)
  loop
    begin
      v_bits := awa._cron_bits(v_old.cron);
    exception when data_exception then
      continue;
    end;
    if v_bits <> v_old.cron_bits then
      update awa.schedules s
         set cron_bits = v_bits, next_wall = '-infinity',
             next_at = case when s.next_at > now then now else s.next_at end
       where s.name = any(array(
         select s.name
           from awa.schedules s
          where s.cron = v_old.cron and s.cron_bits = v_old.cron_bits
            for update skip locked));
    end if;
  end loop;
end
$$;
comment on function awa._refresh_expressions is
  'Reads a sixtieth of the expressions anew, and has schedules whose expression means something else now look again';
