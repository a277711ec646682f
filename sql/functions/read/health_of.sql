-- The condition of the installation, as health: of some topics, or of all, and no more is read than these need.
-- Raises 22023.
create or replace function awa.health_of(topics text[] default null) returns setof awa.health_row
language plpgsql stable
security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_mergejoin = off
set jit = off
as $$
#variable_conflict use_variable
declare
  v_known constant text[] := '{restore,maintenance,prune,claimer,queue,group,failures,refusals,schedule,worker,horizon,'
    'segment,notifications}';
  v_unknown text := (select t from unnest(topics) t where (t = any(v_known)) is not true limit 1);
begin
  if not topics <@ v_known then
    perform awa._refuse('topics holds an unknown topic', v_unknown,
      'The topics are ' || array_to_string(v_known, ', ') || '.');
  end if;
  return query
    select h.level, h.topic, h.subject, h.message, h.hint, h.details
      from awa._health_rows(topics) h
     order by array_position('{critical,warning,ok}', h.level), h.ordinal, h.subject;
end
$$;
comment on function awa.health_of is
  'The condition of the installation, as health: of some topics, or of all, and no more is read than these need';
