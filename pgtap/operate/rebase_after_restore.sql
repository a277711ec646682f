-- Without this, a restored database would wait for transaction ids of another server, or skip what is new.
-- It locks all that there is, so the whole is in one transaction. The real dump and restore is in sql/restore_test.go.
\set name rebase_after_restore
\ir ../prelude.psql
call pg_temp.one_segment();

-- All that there may be, beside what other files have left: jobs in every state, given back, changed, with keys; queues
-- that are paused, or were dropped
\ir ../read/states.psql
create temp table jobs as
select n, awa.enqueue(pg_temp.q(' order'), 'k', to_jsonb(n), (array[2, 1, 2, 3])[n % 4 + 1]) as id
  from generate_series(1, 12) n;
create temp table c as
select t.n, j.n as job, t.job_id, t.receipt
  from pg_temp.take(' order', 5) t
  join jobs j on j.id = t.job_id;
select awa.release(job_id, receipt) from c where n = 1 \g /dev/null
select awa.complete(job_id, receipt) from c where n = 2 \g /dev/null
select awa.complete(job_id, receipt, '1') from c where n = 3 \g /dev/null
select awa.extend(job_id, receipt, '1 hour') from c where n = 4 \g /dev/null
select awa.cancel(id) from jobs where n = 8 \g /dev/null
select awa.set_priority(id, 1) from jobs where n = 6 \g /dev/null
select awa.move(id, :'queue' || ' moved') from jobs where n = 10 \g /dev/null
select u.job_id as waits_id
  from awa.enqueue_unique(:'queue' || ' keyed', 'k', unique_key => :'queue' || ' waits') u \gset
select u.job_id as runs_id
  from awa.enqueue_unique(:'queue' || ' keyed', 'k', unique_key => :'queue' || ' runs', priority => 1) u \gset
create temp table keyed as select * from awa.claim(:'queue' || ' keyed');
select count(*) from awa.enqueue_many(:'queue' || ' paused', 'k', array_fill('{}'::jsonb, array[3])) \g /dev/null
select awa.pause_queue(:'queue' || ' paused') \g /dev/null
select count(*) from awa.enqueue_many(:'queue' || ' dropped', 'k', array_fill('{}'::jsonb, array[3])) \g /dev/null
select count(*) from awa.claim(:'queue' || ' dropped') \g /dev/null
select awa.drop_queue(:'queue' || ' dropped', true) \g /dev/null
select count(*) from awa.enqueue_many(:'queue' || ' gone', 'k', array_fill('{}'::jsonb, array[3])) \g /dev/null
select awa.drop_queue(:'queue' || ' gone', true) \g /dev/null
select awa.enqueue(:'queue' || ' dropped', 'again') \g /dev/null
select awa.enqueue(:'queue' || ' due', 'k', run_at => clock_timestamp() + interval '1 hour') as due_id \gset
select pg_temp.step('setup') \g /dev/null

begin;
select plan(60);

create function pg_temp.shifted(x xid8, n bigint) returns xid8
language sql
return case when x = '0' then x else (x::text::bigint + n)::text::xid8 end;
create function pg_temp.shifted(s pg_snapshot, n bigint) returns pg_snapshot
language sql
return case
  when s is null or s::text = '3:3:' then s
  else format('%s:%s:%s', pg_snapshot_xmin(s)::text::bigint + n, pg_snapshot_xmax(s)::text::bigint + n,
    (select string_agg((x::text::bigint + n)::text, ',' order by x) from pg_snapshot_xip(s) x))::pg_snapshot
end;
-- As if the dump came from a server that was so many transactions ahead
create function pg_temp.restored(n bigint) returns void
language sql
as $$
  update awa.ready_entries set xid = pg_temp.shifted(xid, n);
  update awa.ready_tombstones set xid = pg_temp.shifted(xid, n), by_xid = pg_temp.shifted(by_xid, n);
  update awa.arrivals set xid = pg_temp.shifted(xid, n);
  update awa.lease_claims
     set hi = pg_temp.shifted(hi, n), lo = pg_temp.shifted(lo, n), first_xid = pg_temp.shifted(first_xid, n),
         pos_xid = pg_temp.shifted(pos_xid, n);
  update awa.queue_rollups set counted = pg_temp.shifted(counted, n), dropped = pg_temp.shifted(dropped, n);
  update awa.ring set cleaned_until = pg_temp.shifted(cleaned_until, n), cleaned_by = pg_temp.shifted(cleaned_by, n);
$$;
-- How far all ids may be shifted down
create function pg_temp.least_id() returns bigint
language sql
return (
  select least(min(e.xid::text::bigint), (select min(least(t.xid, t.by_xid)::text::bigint) from awa.ready_tombstones t),
           (select min(a.xid::text::bigint) from awa.arrivals a),
           (
             select min(pg_snapshot_xmin(coalesce(c.lo, c.hi))::text::bigint)
               from awa.lease_claims c
              where coalesce(c.lo, c.hi)::text <> '3:3:'
           ),
           (
             select min(pg_snapshot_xmin(r.counted)::text::bigint)
               from awa.queue_rollups r
              where r.counted::text <> '3:3:'
           ))
    from awa.ready_entries e);
create temp table before as select j.id, j.state, to_jsonb(j) as job from awa.jobs j;
-- The next claim gives turns anew: until then, their jobs, and those that only wait for them, count as limited.
create temp view counts as
select c.queue, to_jsonb(c) || jsonb_build_object('limited', c.limited + coalesce((
           select sum(u.jobs) from awa._unlimited(awa._queue_id(c.queue), awa._queue_id(c.queue)) u), 0)) as counts
  from awa.queue_counts() c;
create temp table counts_before as table counts;
create temp table keys_before as select * from awa.unique_claims;
create temp table order_before as
select a.lane, a.job_id, row_number() over (partition by a.lane order by a.xid, a.job_id) as place
  from awa._available a;
create temp table promised as
select count(*) filter (where state = 'available' and id not in (select w.job_id from awa.limited_jobs w)) as available,
       (select count(*) from awa._open_items) as running,
       (select count(*) from awa._ledger l where l.state = 'completed') as completed
  from before;
create function pg_temp.changed() returns text
language sql
return (
  select nullif(concat_ws('; ',
    'jobs '
      || (
        select string_agg(id::text, ' ')
          from (
            select coalesce(b.id, j.id) as id
              from before b
              full join awa.jobs j on j.id = b.id
             where b.job is distinct from to_jsonb(j)
             limit 5
          ) d
      ),
    'counts '
      || (select string_agg(c.queue, ' ') from (table counts_before except all table counts) c),
    'keys ' || (select string_agg(k.job_id::text, ' ') from (table keys_before except all table awa.unique_claims) k),
    'places ' || (select string_agg(d.job_id::text, ' ') from (
      select o.job_id
        from (table order_before except all select a.lane, a.job_id,
          row_number() over (partition by a.lane order by a.xid, a.job_id) from awa._available a) o
       limit 5) d),
    pg_temp.unbalanced()), ''));

select is((select r from awa.rebase_after_restore() r)::text, '(0,0,0)',
  'a database that was not restored is left alone');
select cmp_ok(available, '>=', 15::bigint, 'jobs that wait') from promised;
select cmp_ok(running, '>=', 2::bigint, 'that run') from promised;
select cmp_ok(completed, '>=', 3::bigint, 'that completed') from promised;
savepoint here;

-- Refused until it was called: whatever needs a place
create function pg_temp.raised(call text) returns text
language plpgsql
as $$
declare
  v_hint text;
begin
  execute call;
  return 'accepted';
exception when others then
  get stacked diagnostics v_hint = pg_exception_hint;
  return format('%s %s: %s', sqlstate, sqlerrm, v_hint);
end
$$;
select pg_temp.restored(1000000000) \g /dev/null
update awa.origin set xid = '5', server = server + 1;
select is(pg_temp.raised(call), '55000 the database was restored from a dump: Call awa.rebase_after_restore() once.',
  call)
  from (values
    (1, $$select awa.enqueue(pg_temp.q(), 'k')$$),
    (2, $$select awa.enqueue(pg_temp.q(), 'k', run_at => '2130-01-01')$$),
    (3, $$select awa.enqueue_many(pg_temp.q(), 'k', array['{}']::jsonb[])$$),
    (4, $$select awa.enqueue_batch(jsonb_build_array(jsonb_build_object('queue', pg_temp.q(), 'kind', 'k')))$$),
    (5, $$select awa.enqueue_unique(pg_temp.q(), 'k', unique_key => 'new')$$),
    (6, $$select awa.claim(pg_temp.q())$$),
    (7, format('select awa.retry(%s)', :due_id)),
    (8, (select format('select awa.release(%s, %s)', job_id, receipt) from c where n = 5)),
    (9, (select format('select awa.set_priority(%s, 4)', id) from jobs where n = 12)),
    (10, (select format('select awa.cancel(%s)', id) from jobs where n = 12)),
    (11, $$select awa.drop_queue(pg_temp.q(), true)$$),
    (12, $$select awa.rotate(true)$$),
    (13, $$select awa.prune_oldest(true)$$),
    (14, $$select awa.audit()$$),
    (15, $$select awa.materialize('0')$$),
    (16, $$select awa.rescue()$$)
  ) v(n, call)
 order by n;
select is((
  select count(*)
    from before b
    join awa.jobs j on j.id = b.id and to_jsonb(j) = b.job
   where j.queue = pg_temp.q(' order')
),
  11::bigint, 'what there is can be seen');
update awa.deferred_jobs set run_at = clock_timestamp() - interval '1 second' where job_id = :due_id;
select is(pg_temp.raised('select awa.promote_due()'),
  '55000 the database was restored from a dump: Call awa.rebase_after_restore() once.', 'promote_due');
select is(pg_temp.outcome(format('select awa.complete(%s, %s)', job_id, receipt)), 'ok', 'and attempts be answered')
  from c
 where n = 5;
rollback to here;

-- From a server that was ahead, and one that was behind; known by the OIDs of tables, or by the row that says where it
-- was written
create function pg_temp.rebased(description text) returns setof text
language plpgsql
as $$
begin
  return next is((select r::text from awa.rebase_after_restore() r), (select p::text from promised p),
    description || ': it says how many jobs it has moved');
  return next is(pg_temp.changed(), null, description || ': each is as it was, in its order, counted, with its key');
  return next is((select r::text from awa.rebase_after_restore() r), '(0,0,0)', description || ': once is enough');
  return next is(pg_temp.changed(), null, description || ': then it does nothing');
  return next is((select count(*) from awa.health() h where h.topic = 'restore'), 0::bigint,
    description || ': health does not complain any more');
end
$$;
-- Cleans the oldest segment, in as many calls as that takes
create function pg_temp.cleaned() returns text
language plpgsql
as $$
declare
  v_outcome text;
begin
  for v_call in 1..100 loop
    select p.outcome into v_outcome from awa.prune_oldest(true) p;
    exit when v_outcome <> 'cleaning';
  end loop;
  return v_outcome;
end
$$;
savepoint refused;
select pg_temp.restored(1000000000) \g /dev/null
update awa.origin set xid = '5', server = server + 1;
select pg_temp.rebased('a server ahead');
rollback to refused;
select pg_temp.restored(3 - pg_temp.least_id()) \g /dev/null
update awa.ring set tables = '{1,2}';
update awa.origin set xid = '5';
select pg_temp.rebased('a server behind');
rollback to refused;

-- With a segment that was cleaned, and is not truncated
select rotated from awa.rotate(true) \g /dev/null
create temp table past as select l.id from awa._ledger l where l.state = 'completed';
select is(pg_temp.cleaned(), 'cleaned', 'cleaned');
delete from before b using past p where p.id = b.id;
update promised set running = 0, completed = 0;
select pg_temp.restored(1000000000) \g /dev/null
update awa.origin set xid = '5', server = server + 1;
select pg_temp.rebased('after a cleaning');
rollback to refused;

-- Work goes on
select pg_temp.restored(1000000000) \g /dev/null
insert into awa.unique_claims (key, round, free_since)
values (sha256('free'), 1000000000, pg_temp.shifted(pg_current_xact_id(), 1000000000));
update awa.origin set xid = '5', server = server + 1;
select running from awa.rebase_after_restore() \g /dev/null
savepoint again;
select pg_temp.fill(pg_temp.q(' order'), 1) \g /dev/null
select is((select array_agg(t.args #>> '{}' order by t.receipt) from awa.claim(pg_temp.q(' order'), 100) t),
  '{1,6,12,"{\"n\": 1}",3,7,11}', 'jobs are claimed in their order, once, before new ones');
rollback to again;
select is((select count(*) from awa.claim(pg_temp.q(' order'), 4)) + (
  select count(*) from awa.claim(pg_temp.q(' order'), 100)
),
  6::bigint, 'all of them');
select is((select count(*) from awa.claim(pg_temp.q(' order'), 100)), 0::bigint, 'and no more');
select is((select array_agg(t.args #>> '{}') from awa.claim(pg_temp.q(' moved'), 100) t), '{10}', 'where they are');
select is((
  select array_agg(n order by n)
    from awa.complete_many((select array_agg(job_id) from c), (select array_agg(receipt) from c)) s(job_id)
    join c using (job_id)
),
  '{1,2,3}', 'open attempts are answered by their receipts, those that ended are stale');
select is(pg_temp.outcome(format('select awa.complete(%s, %s)', job_id, receipt)), 'ok', 'also with a key') from keyed;
select is((select array_agg(u.job_id) from awa.unique_claims u where u.job_id in (:waits_id, :runs_id)),
  array[:waits_id]::bigint[], 'which is free then');
select is((select job_id from awa.enqueue_unique(pg_temp.q(' keyed'), 'k', unique_key => :'queue' || ' waits')),
  :waits_id::bigint, 'and not before');
select is((select count(*) from awa.claim(pg_temp.q(' paused'), 10)), 0::bigint, 'a queue that is paused stays so');
select awa.resume_queue(pg_temp.q(' paused')) \g /dev/null
select is((select count(*) from awa.claim(pg_temp.q(' paused'), 10)), 3::bigint, 'until it is resumed');
select is((select array_agg(t.kind) from awa.claim(pg_temp.q(' dropped'), 10) t), '{again}',
  'of a queue that was dropped those that came after come');
select is((select count(*) from awa.claim(pg_temp.q(' gone'), 10)), 0::bigint, 'or none');
create function pg_temp.kept() returns bigint
language sql
return (
  select count(*) from before b join c on c.job_id = b.id join awa.job(b.id) j on true where b.state = 'completed'
);
select is(pg_temp.kept(), 2::bigint, 'what completed is kept');
update awa.done_entries
   set finalized_at = finalized_at - interval '25 hours'
 where state = 'completed' and job_id in (select job_id from c);
select expired from awa.expire_history() \g /dev/null
select is(pg_temp.kept(), 0::bigint, 'until its retention is over');
select is((select count(*) from awa.unique_claims u where u.free_since > pg_current_xact_id()), 0::bigint,
  'what is kept of a key that no job holds can be removed in its time');
update awa.deferred_jobs set run_at = clock_timestamp() - interval '1 second' where job_id = :due_id;
select promoted from awa.promote_due() \g /dev/null
select is((select j.state from awa.job(:due_id) j), 'available', 'what is scheduled comes in its time');
select is((select p.outcome from awa.prune_oldest(true) p), 'empty', 'all is in the current segment');
select rotated from awa.rotate(true) \g /dev/null
select is(pg_temp.cleaned(), 'cleaned', 'which can be emptied in its turn');
select is(pg_temp.unbalanced(), null, 'the books balance in the end');
select is((select count(*) from awa.rebase_after_restore_row), 0::bigint, 'the view that names the columns is empty');
select pg_temp.steps_agree();

select * from finish();
rollback;
