-- Without this, no user could say what became of one job, or would have to read all of them to find out.
\set name job
\ir ../prelude.psql
\ir states.psql

begin;
select plan(27);

select is(
  (
    select row(j.state, j.attempt, j.receipt is not null, j.worker_id is not null, j.attempted_at is not null,
      j.heartbeat_at is not null, j.finalized_at is not null, jsonb_array_length(j.errors), j.output)::text
     from kinds k, awa.job(job_id => k.id) j where k.name = c.name),
  c.wanted, c.name)
  from (values
    (1, 'available', '(available,0,f,f,f,f,f,0,)'),
    (2, 'scheduled', '(scheduled,0,f,f,f,f,f,0,)'),
    (3, 'running', '(running,1,t,t,t,t,f,0,)'),
    (4, 'completed', '(completed,1,t,t,t,f,t,0,)'),
    (5, 'batch', '(completed,1,t,t,t,f,t,0,)'),
    (6, 'output', '(completed,1,t,t,t,f,t,0,"""out""")'),
    (7, 'retryable', '(retryable,1,f,f,t,f,f,1,)'),
    (8, 'failed', '(failed,1,t,t,t,f,t,1,)'),
    (9, 'released', '(available,0,f,f,f,f,f,0,)'),
    (10, 'promoted', '(available,1,f,f,f,f,f,1,)'),
    (11, 'leased', '(running,1,t,t,t,t,f,0,)'),
    (12, 'leased completed', '(completed,1,t,t,t,f,t,0,)'),
    (13, 'cancelled', '(cancelled,1,t,t,t,f,t,1,)'),
    (14, 'called off', '(cancelled,0,f,f,f,f,t,1,)'),
    (15, 'snoozed', '(scheduled,0,f,f,t,f,f,0,)'),
    (16, 'dead', '(dead,1,t,t,t,f,t,1,)'),
    (17, 'retried', '(available,0,f,f,f,f,f,1,)')
  ) c(n, name, wanted)
 order by c.n;
select is((select count(*) from kinds k cross join lateral awa.job(k.id)), 17::bigint, 'one row each');
select is((select array_agg(to_jsonb(j) order by j.id) from kinds k, awa.job(k.id) j),
  (select array_agg(to_jsonb(j) order by j.id) from awa.jobs_compat() j join kinds k using (id)),
  'which is the one of awa.jobs');
select is((
  select count(*)
    from kinds k, awa.job(k.id) j
   where j.queue = pg_temp.q() and j.kind = k.name and j.args = to_jsonb(k.name)
),
  15::bigint, 'with the job''s queue, kind and args');
select is((select count(*) from awa.job(n)), 0::bigint, format('no row for job %s', coalesce(n::text, 'null')))
  from unnest(array[null, 0, -1, 9223372036854775807]::bigint[]) with ordinality u(n, place)
 order by place;
select awa.enqueue(:'queue', 'k') as own_id \gset
select is((select j.state from awa.job(:own_id) j), 'available', 'a transaction sees what it enqueued');
insert into awa.queues (queue_id, lane, name)
select q.queue_id, q.lane, q.name
  from awa.queues q
 where q.name = pg_temp.q();
select is((select count(*) from awa.job(:own_id)), 1::bigint,
  'a queue that two producers made at once shows its jobs once');
select is((select j.errors -> 0 ->> 'error' from kinds k, awa.job(k.id) j where k.name = 'failed'), 'e',
  'a failed job tells why');

select * from finish();
rollback;
