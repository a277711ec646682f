-- Without this, a column that is added to a table would be missing in one of its lists, and rows would differ by where
-- they were written.
\set name writers
\ir ../prelude.psql
begin;
select plan(4);

-- Each insert of a function into a table, without comments and literals; a segment is its table
create temp table inserts as
select distinct regexp_replace(m[1], '_[0-3]$', '') as into_table, p.proname::text as writer
  from pg_proc p
 cross join lateral regexp_matches(regexp_replace(regexp_replace(coalesce(pg_get_function_sqlbody(p.oid), p.prosrc),
   '--[^\n]*', '', 'g'), '''([^'']|'''')*''', '', 'g'), '\minsert\s+into\s+awa\.(\w+)', 'gi') m
 where p.pronamespace = 'awa'::regnamespace;
select cmp_ok((select count(*) from inserts), '>=', 30::bigint, 'inserts are found');

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
  ('group_states', '_change_holders', 'for whom groups are kept: many in one statement'),
  ('group_states', '_recount_limits', 'all, after a restore'),
  ('heirs', '_take_key', null),
  ('lease_claim_closures', '_append_closure', null),
  ('lease_claim_closures', '_append_closures', 'many in one statement'),
  ('lease_claims', '_append_claim', null),
  ('lease_claims', '_check_snapshot', 'a row that is taken back at once'),
  ('leases', '_lease', null),
  ('limited_jobs', '_admit_part', null),
  ('limited_jobs', '_put_aside', 'where groups are served by turns, in the statement that reads them'),
  ('lost_attempts', '_record_lost_attempts', null),
  ('origin', '_set_origin', null),
  ('pending_changes', '_decide_at_end', null),
  ('queue_rollups', '_add_rollups', null),
  ('queue_settings', '_add_settings', null),
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
  ('schedule_sources', 'sync_schedules', null),
  ('schedules', '_save_schedule', null),
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
  ('unique_claims', '_try_key', null),
  ('unique_claims', '_let_go', 'the second rows of keys'),
  ('workers', 'register_worker', null);
select is((select array_agg(format('%s into %s', i.writer, i.into_table) order by i.writer, i.into_table)
             from inserts i
            where not exists (select from writers w where (w.into_table, w.writer) = (i.into_table, i.writer))),
  null, 'nothing else inserts into a table than its writer, and what has a reason');
select is((select array_agg(format('%s into %s', w.writer, w.into_table) order by w.writer, w.into_table)
             from writers w
            where not exists (select from inserts i where (i.into_table, i.writer) = (w.into_table, w.writer))),
  null, 'and all of these do');
select is((select array_agg(w.into_table) from (
             select w.into_table from writers w where w.why is null group by w.into_table having count(*) > 1) w),
  null, 'a table has one writer');

select * from finish();
rollback;
