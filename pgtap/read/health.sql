-- Without this, what goes wrong slowly (maintenance that no program runs, a segment that cannot be emptied, workers
-- that died) would show only when the disk is full, or a user misses a job.
\set name health
\ir ../prelude.psql

begin;
select plan(72);

create function pg_temp.late(step text) returns text
language sql
return (select string_agg(h.message || coalesce(' -> ' || h.hint, ''), ' | ') from (
  select regexp_replace(h.message, '(\d\d:\d\d):\d\d', '\1', 'g') as message,
         nullif(regexp_replace(h.hint,
           ' Where it is called, see the warnings of awa.run_pass\(\S+\) about job \d+\.$', ''),
           'Run workers, or call awa.run_maintenance() every few seconds.') as hint
    from awa.health() h where h.topic = 'maintenance' and h.subject = step and h.level = 'warning') h);

\ir health.psql

-- Nothing wrong
select is((
  select string_agg(h.topic || ' ' || h.n, ', ' order by h.topic)
    from (select topic, count(*) as n from awa.health() group by topic) h
   where h.topic <> 'horizon'
),
  'maintenance 14, notifications 1, segment 4',
  'in an installation without queues there are maintenance and segments to look at');
select is((select array_agg(distinct h.level) from awa.health() h where h.topic <> 'horizon'), '{ok}',
  'and all is well');
select is((select array_agg(distinct h.hint) from awa.health() h where h.topic <> 'horizon'), array[null],
  'so nothing is to be done');
select is(pg_temp.says('maintenance'),
  'ok: apply_changes: it keeps up | '
  'ok: cancel_expired: it keeps up | ok: end_stuck_claimers: it keeps up | ok: expire_history: it keeps up | ok: '
  'fire_due: it keeps up | ok: fold: it keeps up |'
  ' ok: forget_workers: it keeps up | ok: materialize: it keeps up | ok: promote_due: it keeps up | ok: '
  'prune_oldest: it keeps up | ok: rescue: it keeps up | ok: rotate: it keeps up | ok: run_maintenance: it keeps up | '
  'ok: summarize: it keeps up',
  'maintenance keeps up');
select is((
  select count(*) from awa.health() h where h.topic = 'horizon' and (h.details ->> 'pid')::int = pg_backend_pid()
),
  0::bigint, 'the caller is nobody to worry about');

-- Restored
update awa.ring set tables = '{1,2}';
update awa.origin set xid = '5';
select is(pg_temp.says('restore'),
  'critical: database: it was restored from a dump: nothing is enqueued or claimed -> Call awa.rebase_after_restore() '
  'once.',
  'a database that was restored');
rollback to well;
-- A row that is missing, and the way back
set local session_replication_role = replica;
delete from awa.settings;
set local session_replication_role = origin;
select is(pg_temp.says('restore'),
  'critical: awa.settings: it has lost its row: nothing is claimed, and maintenance fails -> Run: insert into '
  'awa.settings default values.',
  'the settings are gone');
rollback to well;
set local session_replication_role = replica;
delete from awa.ring;
set local session_replication_role = origin;
select is(pg_temp.says('restore'),
  'critical: awa.ring: it has lost its row: nothing is claimed, and maintenance fails -> Run: insert into awa.ring '
  '(tables) values (array[''awa.ring''::regclass, ''awa.ready_entries''::regclass]::oid[]).',
  'ring is gone: that comes before a call of rebase_after_restore');
rollback to well;

-- Maintenance
select pg_temp.looked('20 seconds') \g /dev/null
select is(pg_temp.late('run_maintenance'), null, 'maintenance is called once a minute, at least');
select pg_temp.looked('2 minutes 1 second') \g /dev/null
select is(pg_temp.late('run_maintenance'), 'it was not called, for 00:02', 'or is late');
select promoted from awa.promote_due() \g /dev/null
select is(pg_temp.late('run_maintenance'), 'it was not called, for 00:02', 'also when jobs are promoted');
update awa.settings set warn_silence = '5 minutes';
select is(pg_temp.late('run_maintenance'), null, 'how late is a setting');
update awa.settings set warn_silence = '1 minute';
insert into awa.rescue_gaps (began_at, ended_at) values (pg_temp.ago('3 minutes'), pg_temp.ago('20 seconds'));
select is(pg_temp.late('run_maintenance'), null, 'and once a minute is no gap');
delete from awa.rescue_gaps;
select is((pg_temp.details('maintenance') ->> 'late_seconds')::int / 60, 2, 'by so many seconds');
select is((select h.hint from awa.health() h where h.topic = 'maintenance' and h.level = 'warning'),
  'Run workers, or call awa.run_maintenance() every few seconds.', 'what to do');
select setval('awa.rescue_called_at', 1, false) \g /dev/null
select is(pg_temp.late('run_maintenance'), null, 'where there was never a queue it need not be called');
insert into awa.queues (queue_id, name, created_at) values (1, 'q', pg_temp.ago('3 minutes 1 second'));
select is(pg_temp.late('run_maintenance'), 'it was not called, for 00:03', 'where there is one it must');
select awa.enqueue(pg_temp.q(), 'k', run_at => '2130-01-01') \g /dev/null
select pg_temp.looked('-1 hour') \g /dev/null
update awa.deferred_jobs set run_at = pg_temp.ago('1 minute 1 second');
select is(pg_temp.late('promote_due'), 'jobs that are due wait, for 00:01',
  'jobs that are due are promoted within half a minute');
update awa.deferred_jobs set run_at = pg_temp.ago('1 second');
select is(pg_temp.late('promote_due'), null, 'seconds do not matter');
-- Passes that fail, or that no program calls
select pg_temp.succeeded('20 seconds') \g /dev/null
select is((select string_agg(h.subject, ' ') from awa.health() h where h.topic = 'maintenance' and h.level <> 'ok'),
  null, 'passes succeed once a minute, at least');
select pg_temp.succeeded('2 minutes 1 second', '{fold}') \g /dev/null
select is((select string_agg(h.subject, ' ') from awa.health() h where h.topic = 'maintenance' and h.level <> 'ok'),
  'fold', 'or one of them fails');
select is(pg_temp.late('fold'),
  'it has not succeeded for 00:02, though maintenance is called -> See the errors of those that call '
  'awa.run_maintenance(), or call this pass, too.',
  'and says so');
select ok((
  pg_temp.details('maintenance') ->> 'succeeded_at'
)::timestamptz between pg_temp.ago('3 minutes') and pg_temp.ago('2 minutes'),
  'and when it succeeded last');
update awa.settings set warn_silence = '5 minutes';
select is(pg_temp.late('fold'), null, 'how late is a setting');
update awa.settings set warn_silence = '1 second';
select is((
  select string_agg(h.subject, ' ')
    from awa.health() h
   where h.topic = 'maintenance' and h.level <> 'ok' and h.subject <> 'run_maintenance'
),
  'fold', 'of a minute, at least');
update awa.settings set warn_silence = '1 minute';
update awa.deferred_jobs set run_at = pg_temp.ago('1 minute 1 second');
select pg_temp.succeeded('2 minutes 1 second', '{promote_due}') \g /dev/null
select matches(pg_temp.late('promote_due'), '^jobs that are due wait, for 00:01; it has not succeeded for 00:02',
  'what waits for it comes first');
select pg_temp.looked('2 minutes 1 second') \g /dev/null
select is(pg_temp.late('fold'), null, 'where maintenance is not called there is one warning for all of them');
select pg_temp.succeeded('-1 hour'), pg_temp.looked('-1 hour') \g /dev/null
rollback to well;
select pg_temp.fill(pg_temp.q(), 2) \g /dev/null
select awa.register_worker('w') as worker_id \gset
create temp table c as select * from awa.claim(pg_temp.q(), 1, :worker_id, '2 minutes');
insert into c select * from awa.claim(pg_temp.q(), 1, null, '2 minutes');
update awa.lease_claims set claimed_at = pg_temp.ago('20 seconds');
select is(pg_temp.late('materialize'), null, 'attempts get rows of their own within a minute');
update awa.lease_claims set claimed_at = pg_temp.ago('1 minute 1 second');
select is(pg_temp.late('materialize'), 'long-running attempts have no rows of their own, for 00:01',
  'or materialize is late');
update awa.lease_claims set claimed_at = pg_temp.ago('2 minutes 1 second'), lease_until = pg_temp.ago('1 second');
select is(pg_temp.late('rescue'), null, 'attempts end within half a minute after their leases');
update awa.lease_claims
   set claimed_at = pg_temp.ago('4 minutes 1 second'), lease_until = pg_temp.ago('2 minutes 1 second');
select is(pg_temp.late('rescue'), 'attempts that are overdue run on, for 00:04', 'or rescue is late');
delete from awa.lease_claim_closures;
select awa.complete(job_id, receipt)
  from c
 where receipt >> 12 = (select claim_id from awa.lease_claims where worker_id is null) \g /dev/null
select is(pg_temp.late('rescue'), null, 'which it is not for the attempt of a worker that lives');
update awa.lease_claims set deadline_at = pg_temp.ago('40 seconds');
select is(pg_temp.late('rescue'), 'attempts that are overdue run on, for 00:04', 'unless its deadline is over');
select awa.extend(job_id, receipt, '2 minutes')
  from c
 where receipt >> 12 = (select claim_id from awa.lease_claims where worker_id is not null) \g /dev/null
select is(pg_temp.late('rescue'), 'attempts that are overdue run on, for 00:04',
  'also of attempts with rows of their own');
select is(pg_temp.late('materialize'), null, 'which they have then');
update awa.leases set deadline_at = null, lease_until = pg_temp.ago('40 seconds');
select is(pg_temp.late('rescue'), null, 'and keep as long as their worker lives');
update awa.workers set heartbeat_at = pg_temp.ago('3 minutes');
select is(pg_temp.late('rescue'), 'attempts that are overdue run on, for 00:04', 'no longer');
rollback to well;
select pg_temp.fill(pg_temp.q(), 1) \g /dev/null
select awa.complete(t.job_id, t.receipt, '1') from awa.claim(pg_temp.q()) t \g /dev/null
update awa.done_entries set finalized_at = pg_temp.ago('24 hours 50 minutes');
select is(pg_temp.late('expire_history'), null, 'jobs go within an hour after their retention');
update awa.done_entries set finalized_at = pg_temp.ago('25 hours 2 minutes 1 second');
select is(pg_temp.late('expire_history'), 'jobs are past their retention, for 01:02', 'or expire_history is late');
update awa.done_entries set state = 'failed', finalized_at = pg_temp.ago('72 hours 50 minutes');
select is(pg_temp.late('expire_history'), null, 'failed jobs are kept longer');
update awa.done_entries set finalized_at = pg_temp.ago('73 hours 2 minutes 1 second');
select is(pg_temp.late('expire_history'), 'jobs are past their retention, for 01:02', 'and not for ever');
select awa.configure_queue(pg_temp.q(), '{"failed_retention": "73 hours"}') \g /dev/null
select is(pg_temp.late('expire_history'), null, 'as long as their queue says');
insert into awa.done_entries (job_id, lane, state, counted_by_closure, reason, ready_at, created_at, finalized_at,
  attempt, max_attempts, body_bytes, kind, args)
select d.job_id, d.lane, 'dead', false, 'discarded', d.ready_at, d.created_at,
       pg_temp.ago('30 days 1 hour 2 minutes 1 second'), 1, 1, 1, 'k', '{}'
  from awa.done_entries d;
select is(pg_temp.late('expire_history'), 'jobs are past their retention, for 01:02', 'so with dead letters');
rollback to well;
update awa.ring set left_at[1] = pg_temp.ago('9 hours 1 second');
select is(pg_temp.late('rotate'), null, 'an empty segment may be current for ever');
select pg_temp.fill(pg_temp.q(), 1) \g /dev/null
select is(pg_temp.late('rotate'), 'the current segment should have been left, for 01:00',
  'one with entries for segment_age');
update awa.settings set segment_age = '9 hours';
select is(pg_temp.late('rotate'), null, 'and an hour');
update awa.settings set segment_age = '8 hours';
insert into awa.lease_claim_closures (segment, claim_id, item, outcome, closed_at) values (1, 1, 0, 'completed', now());
select is(pg_temp.late('rotate'), null, 'or as long as the next one is not empty');
update awa.ring set left_at[2] = pg_temp.ago('24 hours 50 minutes');
select is(pg_temp.late('prune_oldest'), null, 'a segment is emptied within an hour after its retention');
update awa.ring set left_at[2] = pg_temp.ago('25 hours 1 second');
select is(pg_temp.late('prune_oldest'), 'the oldest segment is past its retention, for 01:00',
  'or prune_oldest is late');
update awa.ring set outcome = 'full';
select is(pg_temp.late('prune_oldest'), null, 'unless it has been tried');
rollback to well;

-- What is in the way of emptying the oldest segment
update awa.ring set outcome = 'full', tries = 7, stuck_since = pg_temp.ago('1 second'), retry_at = '2130-01-01';
select is(pg_temp.says('prune'),
  'ok: oldest segment: not emptied for 00:00: more is alive in it than carry_max -> Have the jobs worked on, or raise '
  'carry_max. Meanwhile the current segment grows.',
  'for a moment it may be anything');
update awa.ring set stuck_since = pg_temp.ago('2 minutes 1 second');
select is(pg_temp.says('prune'),
  'warning: oldest segment: not emptied for 00:02: more is alive in it than carry_max -> Have the jobs worked on, or '
  'raise carry_max. Meanwhile the current segment grows.',
  'full');
select is(pg_temp.details('prune'),
  jsonb_build_object('outcome', 'full', 'tries', 7, 'retry_at', timestamptz '2130-01-01', 'pids', null), 'in numbers');
update awa.ring set outcome = 'busy', cleaned_segment = 3;
select is(pg_temp.says('prune'),
  'warning: segment 3: not emptied for 00:02: sessions are at work on what is alive in it: no session by now, and it '
  'is tried again -> It is tried again. A session that is named for long should end its transaction.',
  'busy');
update awa.ring set outcome = 'waiting', old_snapshots = '{"backend 1, since then","replication slot s"}';
select is(pg_temp.says('prune'),
  'warning: segment 3: not emptied for 00:02: there are older snapshots, or transactions: backend 1, since then; '
  'replication slot s -> '
  'End these transactions when they need not go on. Meanwhile the current segment grows; claims are as fast as ever.',
  'waiting');
update awa.ring set outcome = 'blocked';
select matches(pg_temp.says('prune'),
  format(
    '^warning: segment 3: not emptied for 00:02: others hold locks on it: backend %s \(.*\) -> End these transactions',
    pg_backend_pid()),
  'blocked');
select is(pg_temp.details('prune') -> 'pids', jsonb_build_array(pg_backend_pid()), 'by whom');
update awa.ring set outcome = 'unbalanced', stuck_since = pg_temp.ago('1 second');
select is(pg_temp.says('prune'),
  'critical: segment 3: not emptied for 00:00: rows are missing in it -> See awa.audit(). To empty it all the same: '
  'awa.prune_oldest(true).',
  'unbalanced, which is critical at once');
rollback to well;

-- Segments
update awa.ring set left_at = array_fill(pg_temp.ago('1 hour 1 second'), array[4]);
select is(pg_temp.says('segment', '[1-3]'), 'ok: segment 1: empty | ok: segment 2: empty | ok: segment 3: empty',
  'segments that are empty');
select matches(pg_temp.says('segment', '0'), '^ok: segment 0: current for 01:00, \d+ kB$', 'the current one');
select pg_temp.fill(pg_temp.q(), 100) \g /dev/null
update awa.settings set segment_bytes = pg_relation_size('awa.ready_entries_0') / 4;
select is((select h.level from awa.health() h where h.subject = 'segment 0'), 'ok',
  'may be four times as large as it should be');
update awa.settings set segment_bytes = pg_relation_size('awa.ready_entries_0') / 4 - 1;
select matches(pg_temp.says('segment', '0'),
  '^warning: segment 0: current for 01:00, \d+ kB -> It was not left for the next one, which is empty: see '
  'maintenance\.$',
  'not when no program rotates');
select is(pg_temp.late('rotate'), 'the current segment should have been left, for 01:00', 'which is late');
insert into awa.lease_claim_closures (segment, claim_id, item, outcome, closed_at) values (1, 1, 0, 'completed', now());
select is(pg_temp.late('rotate'), null, 'or can''t');
select matches(pg_temp.says('segment', '0'),
  '^warning: segment 0: current for 01:00, \d+ kB -> The next one is not empty yet: see prune, or keep completed jobs '
  'for a shorter time \(completed_retention\)\.$',
  'not more');
select is((
  select row(h.details ->> 'is_current', h.details ->> 'is_empty', (h.details ->> 'seconds')::int / 60,
    (h.details ->> 'bytes')::bigint > pg_relation_size('awa.ready_entries_0'))::text
    from awa.health() h
   where h.subject = 'segment 0'
),
  '(true,false,60,t)', 'in numbers');
update awa.ring set current_segment = 1;
select matches(pg_temp.says('segment', '0'), '^ok: segment 0: left 01:00 ago, \d+ kB$', 'one that was left');
update awa.ring set cleaned_segment = 0, cleaned_until = awa._snapshot();
select matches(pg_temp.says('segment', '0'), '^ok: segment 0: left 01:00 ago, \d+ kB, cleaned$', 'and cleaned');

-- The most urgent comes first
update awa.origin set xid = '5';
update awa.ring set tables = '{1,2}', outcome = 'unbalanced', stuck_since = clock_timestamp();
insert into awa.workers (name, heartbeat_at) values ('quick', clock_timestamp()), ('silent', pg_temp.ago('2 minutes'));
select is((
  select array_agg(h.level || ' ' || h.topic order by h.n)
    from (select *, row_number() over () as n from awa.health()) h
   where h.level <> 'ok' and h.topic <> 'horizon'
),
  '{"critical restore","critical prune","warning worker"}',
  'what is critical comes first, then what is to be warned of');
select is((
  select array_agg(distinct h.level)
    from (select *, row_number() over () as n from awa.health()) h
   where h.n > 3 and h.topic <> 'horizon'
),
  '{ok}', 'then the rest');
select is((select count(*) from awa.health where false) + (select count(*) from awa.health_row), 0::bigint,
  'the view that names the columns is empty');

-- For readers
create temp table all_rows as select count(*) as n from awa.health();
grant select on all_rows to awa_reader;
set local role awa_reader;
select count(*) as read_by_reader from awa.health() \gset
reset role;
select is(:read_by_reader::bigint, n, 'readers see all of it') from all_rows;
select setval('awa.rescue_called_at', :rescue_called_at, :'was_called') \g /dev/null

select * from finish();
rollback;
