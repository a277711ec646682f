-- The row that list_changes returns, one per change.
create or replace view awa.list_changes_row as
select c.change_id, c.action, c.filter, c.options, c.started_by, c.actor, c.started_at, c.state, c.found, c.changed,
       c.skipped, c.last_error, c.ended_at
  from awa.changes c
 where false;
comment on view awa.list_changes_row is
  'The row that list_changes returns, one per change. The view itself is always empty';

-- Changes of many jobs, and what sessions that said for whom they act did at once; the newest first.
-- At once: a change of one job, of a queue, of a group or of settings, or a call with a filter.
-- A page of at most max_changes (1 to 1,000); before_id: the last id of the page before. state: running, stopped or
-- finished; without one all of the last 90 days. actor: the setting awa.actor of the session, beside its login.
-- found is changed plus skipped so far; last_error says why the last one was skipped, or why the last part failed.
-- Raises 22023.
create or replace function awa.list_changes(
  state text default null,
  before_id bigint default null,
  max_changes int default 100
) returns setof awa.list_changes_row
language plpgsql stable
security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
#variable_conflict use_variable
begin
  if state not in ('finished', 'running', 'stopped') then
    perform awa._refuse('state must be a state of a change', state, 'The states are running, stopped, finished.');
  end if;
  if max_changes not between 1 and 1000 then
    perform awa._refuse('max_changes must be between 1 and 1000', max_changes::text, 'Read page by page.');
  end if;
  return query
    select c.change_id, c.action, c.filter, c.options, c.started_by, c.actor, c.started_at, c.state, c.found,
           c.changed, c.skipped, c.last_error, c.ended_at
      from awa.changes c
     where (state is null or c.state = state) and (before_id is null or c.change_id < before_id)
     order by c.change_id desc
     limit coalesce(max_changes, 100);
end
$$;
comment on function awa.list_changes is
  'Changes of many jobs, and what sessions that said for whom they act did at once; the newest first';
