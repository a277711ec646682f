-- Notes of who changed what.

-- An object without the fields that are null.
create or replace function awa._without_nulls(value jsonb) returns jsonb
language sql immutable
as $$ select coalesce(jsonb_object_agg(v.key, v.value), '{}') from jsonb_each(value) v where v.value <> 'null' $$;
comment on function awa._without_nulls is 'An object without the fields that are null';

-- For whom the session acts: the setting awa.actor; null where it is not set.
create or replace function awa._actor() returns text
language sql stable
return nullif(left(current_setting('awa.actor', true), 1000), '');
comment on function awa._actor is 'For whom the session acts: the setting awa.actor; null where it is not set';

-- Records a change that was made at once, where the session says for whom it acts.
-- filter: which jobs; of one job, its id as job_id; of a queue, a group or a schedule, which one. Nulls in it, and in
-- the options, are left out. changed: how many jobs.
-- Why: a session without the setting awa.actor pays nothing.
create or replace function awa._note_change(
  action text,
  filter jsonb,
  options jsonb default '{}',
  changed bigint default 1
) returns void
language plpgsql
as $$
#variable_conflict use_variable
begin
  if awa._actor() is not null then
    insert into awa.changes
      (change_id, action, filter, options, started_by, actor, started_at, state, found, changed, turn_at, moved_at,
       ended_at)
    select nextval('awa.change_ids'), action, awa._without_nulls(filter), awa._without_nulls(options), session_user,
           awa._actor(), t.now, 'finished', changed, changed, t.now, t.now, t.now
      from clock_timestamp() t(now);
  end if;
end
$$;
comment on function awa._note_change is
  'Records a change that was made at once, where the session says for whom it acts';
