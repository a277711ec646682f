-- Without this, a job could be shown twice, in two states, or not at all.
\set name jobs
\ir ../prelude.psql
\ir states.psql

-- A queue with history of all sorts: five jobs are claimed one by one and in bulk, and fail, come back, and end.
select count(*)
  from awa.enqueue_many(:'queue' || ' busy', 'k', array(select to_jsonb(n) from generate_series(1, 60) n),
    max_attempts => 3) \g /dev/null
create temp table enqueued as select j.id from awa.jobs j where j.queue = :'queue' || ' busy';
do $$
declare
  v_claims record;
begin
  for n in 1..12 loop
    select array_agg(c.job_id) as jobs, array_agg(c.receipt) as receipts into v_claims
      from awa.claim(pg_temp.q(' busy'), 1 + 3 * (n % 4)) c;
    continue when v_claims.jobs is null;
    perform awa.complete_many(v_claims.jobs[1:1], v_claims.receipts[1:1]);
    perform awa.fail_many(v_claims.jobs[2:4], v_claims.receipts[2:4],
      array_fill('e'::text, array[cardinality(v_claims.jobs[2:4])]),
      array_fill('0'::interval, array[cardinality(v_claims.jobs[2:4])]))
      where cardinality(v_claims.jobs) > 1;
    perform awa.release(v_claims.jobs[5], v_claims.receipts[5]) where cardinality(v_claims.jobs) > 4;
    perform awa.complete(v_claims.jobs[6], v_claims.receipts[6], '1') where cardinality(v_claims.jobs) > 5;
    commit;
    perform awa.promote_due() where n % 5 = 0;
    commit;
    -- Every job once, at every step
    if (select count(*) <> 60 or count(distinct j.id) <> 60 from enqueued e cross join lateral awa.job(e.id) j) then
      create temp table if not exists wrong (step int);
      insert into wrong values (n);
    end if;
    commit;
  end loop;
end
$$;

begin;
select plan(15);

create temp table seen as select * from awa.jobs;

select results_eq(
  $$select k.name, j.state from kinds k join seen j using (id) order by k.name$$,
  $$values ('available', 'available'), ('batch', 'completed'), ('called off', 'cancelled'), ('cancelled', 'cancelled'),
    ('completed', 'completed'), ('dead', 'dead'), ('failed', 'failed'), ('leased', 'running'),
    ('leased completed', 'completed'), ('output', 'completed'), ('promoted', 'available'), ('released', 'available'),
    ('retried', 'available'), ('retryable', 'retryable'), ('running', 'running'),
    ('scheduled', 'scheduled'), ('snoozed', 'scheduled')$$, 'every job is in its state');
select is((select count(*) from seen j where j.queue = pg_temp.q()), 17::bigint, 'once');
select is((
  select count(*) from (select to_jsonb(j) from seen j except all select to_jsonb(j) from awa.jobs_compat() j) d
),
  0::bigint, 'awa.jobs has no row that jobs_compat has not');
select is((
  select count(*) from (select to_jsonb(j) from awa.jobs_compat() j except all select to_jsonb(j) from seen j) d
),
  0::bigint, 'nor the other way round');
select is((select count(*) from (select j.id from seen j group by j.id having count(*) > 1) d), 0::bigint,
  'no job of this database shows twice');
select is(to_regclass('pg_temp.wrong'), null, 'every job showed once after every step');
select is((select array_agg(j.id order by j.id) from seen j where j.queue = pg_temp.q(' busy')),
  (select array_agg(id order by id) from enqueued), 'and they are the ones that were enqueued');
select cmp_ok((select count(distinct j.state) from seen j where j.queue = pg_temp.q(' busy')), '>=', 4::bigint,
  'in all sorts of states');
select is((
  select count(*)
    from seen j
   where j.queue = pg_temp.q(' busy')
     and jsonb_array_length(j.errors) <> j.attempt - case when j.state in ('running', 'completed') then 1 else 0 end
),
  0::bigint, 'the attempts that failed are the errors');
select is((select count(*) from seen j where j.queue = pg_temp.q(' busy') and j.attempt > j.max_attempts), 0::bigint,
  'no job had more attempts than it may');
select is((
  select count(*)
    from seen j
   where j.queue = pg_temp.q(' busy') and (j.state in ('completed', 'failed')) <> (j.finalized_at is not null)
),
  0::bigint, 'ended is what has an end');
select is((
  select count(*)
    from seen j
   where j.queue = pg_temp.q(' busy') and (j.state in ('running', 'completed', 'failed')) <> (j.receipt is not null)
),
  0::bigint, 'a receipt is that of an attempt that runs or was the last');
select is((select count(*) from seen j where j.queue = pg_temp.q() and j.worker_id = :worker_id), 9::bigint,
  'a worker is that of an attempt that runs or was the last');
select awa.enqueue(:'queue' || ' own', 'k') \g /dev/null
select is(pg_temp.states(' own'), 'available 1', 'a transaction sees what it enqueued');

select results_eq(
  $$select d.job_id, d.queue, d.kind, d.reason, d.priority, d.attempt, d.errors, d.unique_key, d.receipt
      from awa.dlq_entries d join kinds k on k.id = d.job_id$$,
  $$select j.id, j.queue, j.kind, 'discarded', j.priority, j.attempt, j.errors, j.unique_key, j.receipt
      from seen j join kinds k using (id) where k.name = 'dead'$$,
  'a dead letter shows as the job does, with its reason');

select * from finish();
rollback;
