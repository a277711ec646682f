-- Without this, a column that is added to a table would be missing in one of its lists, and rows would differ by where
-- they were written.
\set name writers
\ir ../prelude.psql
begin;
select plan(10);
\ir bodies.psql

-- Each insert of a function into a table, in any of its forms; a segment is its table
create temp view inserts as
select regexp_replace(regexp_replace(m[2], '^awa\.', ''), '_[0-3]$', '') as into_table, b.name as writer,
       regexp_split_to_array(m[3], ', ?') as columns, m[4] is not null as is_whole
  from bodies b
 cross join lateral regexp_matches(b.code,
   '\m(insert into|merge into|copy) (?:only )?([\w.]+)(?: as \w+)?(?: ?\(([^()]*)\))?'
     || '( ?select \w+\.\*| ?values ?\(\w+\.\*\))?', 'g') m;
select cmp_ok((select count(*) from inserts), '>=', 60::bigint, 'inserts are found');

create temp table writers (into_table text, writer text, why text); -- null: the writer
insert into writers values
  ('arrivals', '_arrive', null),
  ('changes', 'start_change', null),
  ('changes', '_note_change', 'one that was made at once'),
  ('deferred_jobs', '_defer', null),
  ('deferred_jobs', '_record_failures', 'the next attempts, in the statement that finds their delays'),
  ('deferred_jobs', '_append', 'new jobs, from the arguments of enqueue: an array of them would be copied'),
  ('deferred_jobs', '_append_batch', 'the jobs of a batch in one statement'),
  ('deleted_jobs', '_note_deleted', null),
  ('done_entries', '_end', null),
  ('group_settings', '_lock_group', null),
  ('group_states', '_deal_turns', null),
  ('group_states', '_take_slots_back', 'the short way of few groups'),
  ('group_states', '_admit_first', 'the short way of one entry'),
  ('group_states', '_count_served', 'many in one statement'),
  ('group_states', '_pass_turns', 'where groups are served by turns: many in one statement'),
  ('group_states', '_put_aside', 'those of new entries, in the statement that reads them'),
  ('group_states', '_take_turns_back', 'many in one statement'),
  ('group_states', '_admit_part', 'those of new entries, in the statement that reads them'),
  ('group_states', '_hold_if_idle', 'that of one job that is put off, which may have none'),
  ('group_states', '_change_holders', 'the jobs for which groups are reserved: many in one statement'),
  ('group_states', '_recount_limits', 'all, after a restore'),
  ('heirs', '_take_key', null),
  ('lease_claim_closures', '_append_closure', null),
  ('lease_claim_closures', '_append_closures', 'many in one statement'),
  ('lease_claims', '_append_claim', null),
  ('lease_claims', '_check_snapshot', 'a row that is taken back at once'),
  ('leased_ends', '_delete_leases', null),
  ('leases', '_lease', null),
  ('limited_jobs', '_admit_part', null),
  ('limited_jobs', '_put_aside', 'where groups are served by turns, in the statement that reads them'),
  ('lost_attempts', '_record_lost_attempts', null),
  ('origin', '_set_origin', null),
  ('pending_changes', '_decide_at_end', null),
  ('queue_rollups', '_add_rollups', null),
  ('queue_settings', '_add_settings', null),
  ('queue_statistics', '_store_queue_statistics', null),
  ('queues', '_use_lanes', null),
  ('queues', '_add_queue', 'a queue without a lane'),
  ('ready_entries', '_append_ready', null),
  ('ready_entries', '_append', 'new jobs, from the arguments of enqueue: an array of them would be copied'),
  ('ready_entries', '_append_batch', 'the jobs of a batch in one statement'),
  ('ready_entries', 'enqueue', 'the short way of one job, to which each function would add'),
  ('ready_entries', '_fire_together', 'the jobs of many schedules in one statement'),
  ('ready_entries', '_append_deferred', 'many in one statement, which deletes them where they were'),
  ('ready_entries', '_append_entry', 'an entry as it is'),
  ('ready_entries', '_carry_all', 'entries as they are'),
  ('ready_entries', '_carry_late', 'entries as they are'),
  ('ready_entries', '_move_entries', 'entries as they are'),
  ('ready_entries', 'rebase_after_restore', 'entries as they are'),
  ('ready_entries', '_begin_turns', 'many in one statement, which deletes them where they were'),
  ('ready_tombstones', '_bury', null),
  ('ready_tombstones', '_carry_burials', 'tombstones as they are'),
  ('rebasing', '_place_anew', null),
  ('rescue_gaps', '_note_call', null),
  ('schedule_sources', '_lock_source', null),
  ('schedules', '_save_schedule', null),
  ('schedules', '_wait_for_schedule', 'to wait for another session''s; undone'),
  ('shard_states', '_store_shard_state', null),
  ('shard_states', '_recount_limits', 'all, after a restore'),
  ('slots', '_free_slots', null),
  ('slots', '_look_again', 'groups to look at, of which no slot was given back'),
  ('slots', '_note_holders', 'jobs that come again, beside the slots that their attempts gave back'),
  ('slots', '_note_leavers', 'jobs that do not, which held no slot'),
  ('slots', '_put_off_turn', 'the slot of a turn, whose job may come again'),
  ('slots', '_store_group', 'a group whose own limits have changed'),
  ('turns', '_store_turns', null),
  ('turns', '_next_turns', 'turns that are put off'),
  ('turns', '_next_by_turns', 'turns that are put off, where groups are served by turns'),
  ('turns', '_pass_turns', 'where groups are served by turns: many in one statement'),
  ('turns', '_put_aside', 'those of jobs without a group'),
  ('turns', '_put_off_turn', 'a turn whose job can neither begin nor be put off'),
  ('statistics', '_store_all_statistics', null),
  ('unique_claims', '_try_key', null),
  ('unique_claims', '_let_go', 'the second rows of keys'),
  ('workers', 'register_worker', null);
create temp view strangers as
select distinct format('%s into %s', i.writer, i.into_table) as stranger
  from inserts i
 where not exists (select from writers w where (w.into_table, w.writer) = (i.into_table, i.writer));
select is((select array_agg(s.stranger order by s.stranger) from strangers s), null,
  'nothing else inserts into a table than its writer, and what has a reason');
select is((select array_agg(format('%s into %s', w.writer, w.into_table) order by w.writer, w.into_table)
             from writers w
            where not exists (select from inserts i where (i.into_table, i.writer) = (w.into_table, w.writer))),
  null, 'and all of these do');
select is((select array_agg(w.into_table) from (
             select w.into_table from writers w where w.why is null group by w.into_table having count(*) > 1) w),
  null, 'a table has one writer');

-- Columns. An insert gives whole rows, or lists all columns but for those that have a reason, and the xid of its
-- transaction, which is a default.
create temp table left_out (into_table text, writer text, columns text[], why text); -- null: each writer of the table
insert into left_out values
  ('changes', '_note_change', '{before_id,skipped,last_error}', 'it was made at once'),
  ('changes', 'start_change', '{found,changed,skipped,last_error,ended_at}', 'nothing is done yet'),
  ('deferred_jobs', '_append', '{attempted_at,progress,errors}', 'a new job'),
  ('deferred_jobs', '_append_batch', '{attempted_at,progress,errors}', 'a new job'),
  ('deleted_jobs', '_note_deleted', '{by_xid}', 'a default: the transaction'),
  ('group_settings', '_lock_group', '{group_max_running,group_rate,paused_at,paused_until,reason}',
   'the row is to be locked; _store_group writes the others'),
  ('group_states', '_admit_first', '{holder,next_at,opens_at}', 'the first job of a group, without a rate'),
  ('group_states', '_recount_limits', '{opens_at}', 'the next claim finds it'),
  ('lost_attempts', '_record_lost_attempts', '{told_at}', 'the worker was not told yet'),
  ('queue_rollups', '_add_rollups', '{counted,enqueued,appended,segment_entries,buried,closed_seq,open_seqs,claimed,'
   'completed,failed,cancelled,dead,dropped,folded_at}', 'nothing is counted yet'),
  ('queue_settings', '_add_settings', '{default_priority,default_max_attempts,lease,backoff_base,backoff_max,deadline,'
   'dead_letter,aging_interval,shards,max_depth,depth_note,failed_retention,dlq_retention,completed_retention,'
   'group_max_running,group_rate,max_running,rate,group_order,group_turns,paused_at,changed_at,changed_by}',
   'the row is to be locked; what adds it writes the others'),
  ('queues', '_add_queue', '{lane,has_tombstones,may_expire,created_at,dropped_at,forget_after}', 'a new queue'),
  ('queues', '_use_lanes', '{has_limits,created_at,dropped_at,forget_after}', 'a new lane'),
  ('ready_entries', '_append', '{created_at,progress,errors}', 'a new job'),
  ('ready_entries', '_append_batch', '{created_at,progress,errors}', 'a new job'),
  ('ready_entries', '_fire_together', '{unique_key,expires_at,created_at,progress,errors}',
   'a new job of a schedule: it has no key, and does not expire'),
  ('ready_entries', 'enqueue', '{unique_key,tags,metadata,group_key,expires_at,created_at,progress,errors}',
   'a new job; one with tags, metadata, a group or an expiry goes by _append'),
  ('ready_tombstones', '_bury', '{by_xid}', 'a default: the transaction'),
  ('schedule_sources', '_lock_source', '{owner,owner_id}', 'written by the next statement'),
  ('shard_states', '_recount_limits', '{group_rate,opened_until,group_turns}', 'the next claim writes them'),
  ('slots', null, '{of_queue,freed,looks,holders,leavers,changed}', 'each writer notes a thing of its own'),
  ('turns', null, '{group_id,is_again}', 'jobs without a group, and groups that are not served by turns'),
  ('unique_claims', '_let_go', '{job_id,queue_id,held_until}', 'nobody holds the key'),
  ('unique_claims', '_try_key', '{queue_id,held_until,free_since}', 'a job that has not ended holds the key'),
  ('workers', 'register_worker', '{worker_id,started_at,heartbeat_at,registered_by}', 'a new worker');
create temp view columns as
select c.relname::text as of_table, a.attname::text as name
  from pg_class c
  join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
  left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
 where c.relnamespace = 'awa'::regnamespace
   and c.relkind in ('r', 'p')
   and not c.relispartition
   and (a.attname, pg_get_expr(d.adbin, d.adrelid)) is distinct from ('xid', 'pg_current_xact_id()');
create temp view forgotten as
select distinct format('%s does not write %s.%s', i.writer, i.into_table, c.name) as column
  from inserts i
  join columns c on c.of_table = i.into_table
 where i.columns is not null
   and c.name <> all(i.columns)
   and not exists (
    select
      from left_out l
     where l.into_table = i.into_table and coalesce(l.writer, i.writer) = i.writer and c.name = any(l.columns)
  );
select is((select array_agg(f.column order by f.column) from forgotten f), null,
  'each writes all columns of its table, but for those that have a reason');
select is((
  select array_agg(distinct format('%s into %s', i.writer, i.into_table))
    from inserts i
   where i.columns is null and not i.is_whole
),
  null, 'or whole rows: values without a list of columns would leave out what is added at the end');
select is((
  select array_agg(format('%s: %s.%s', l.writer, l.into_table, c) order by l.into_table, l.writer, c)
    from left_out l
   cross join unnest(l.columns) c
   where not exists (
    select
      from inserts i
      join columns a on a.of_table = i.into_table and a.name = c
     where i.into_table = l.into_table and coalesce(l.writer, i.writer) = i.writer and c <> all(i.columns)
  )
),
  null, 'and there are no other reasons');

-- A column that is made up is missing in each list: these are what ADR 0050 names
select is(
  (
    select array_agg(distinct t order by t)
      from unnest('{ready_entries,deferred_jobs,limited_jobs,leases,done_entries,rebasing}'::text[]) t
     where exists (select from columns c where c.of_table = t and c.name = 'args')
  ),
  (select array_agg(c.of_table order by c.of_table) from columns c where c.name = 'args' and c.of_table <> 'schedules'),
  'six tables hold the body of a job');
alter table awa.ready_entries add note text;
alter table awa.deferred_jobs add note text;
alter table awa.limited_jobs add note text;
alter table awa.leases add note text;
alter table awa.done_entries add note text;
select is((select array_agg(f.column order by f.column) from forgotten f),
  '{_admit_part does not write limited_jobs.note,_append does not write deferred_jobs.note,'
  '_append does not write ready_entries.note,_append_batch does not write deferred_jobs.note,'
  '_append_batch does not write ready_entries.note,_begin_turns does not write ready_entries.note,'
  '_end does not write done_entries.note,_fire_together does not write ready_entries.note,'
  '_put_aside does not write limited_jobs.note,enqueue does not write ready_entries.note}',
  'a new column of a job that a list forgets is found');

-- No way of writing hides an insert
create function awa._fools() returns void
language plpgsql
as $$
begin
  insert into awa."leases" select l.* from awa.leases l;
  INSERT  INTO awa . turns (lane) values (1); -- can't hide
  merge into /* 'x' */ awa.queues q using awa.turns t on q.lane = t.lane when not matched then do nothing;
  insert into awa.slots as s (shard) values (1);
end
$$;
select is((select array_agg(s.stranger order by s.stranger) from strangers s),
  '{_fools into leases,_fools into queues,_fools into slots,_fools into turns}', 'an insert in disguise is found');

select * from finish();
rollback;
