-- Without this, who does not know a job's id, but what it was for, could not call it off.
\set name cancel_by_unique_key
\ir ../prelude.psql

-- A job in each state, with a key that says so; those that ended hold theirs, too.
select awa.register_worker(:'queue') as worker_id \gset
create temp table jobs as
select n,
       (
         awa.enqueue_unique(pg_temp.q(), n, unique_key => pg_temp.q(' ' || n),
           unique_states => '{scheduled,available,running,retryable,waiting_external,completed,failed,cancelled,dead}',
           max_attempts => 25)
       ).job_id as id
  from unnest(array['running', 'leased', 'retryable', 'completed', 'failed', 'cancelled', 'dead']) n;
create temp table c as
select j.n, c.job_id, c.receipt
  from awa.claim(:'queue', 100, :worker_id) c
  join jobs j on j.id = c.job_id;
select awa.extend(job_id, receipt, '1 hour') from c where n = 'leased' \g /dev/null
select awa.fail(job_id, receipt, 'e', '1 hour') from c where n = 'retryable' \g /dev/null
select awa.complete(job_id, receipt) from c where n = 'completed' \g /dev/null
select awa.discard(job_id, receipt, 'e') from c where n = 'failed' \g /dev/null
select awa.cancel_attempt(job_id, receipt) from c where n = 'cancelled' \g /dev/null
select awa.configure_queue(:'queue', '{"dead_letter": true}') \g /dev/null
select awa.discard(job_id, receipt, 'e') from c where n = 'dead' \g /dev/null
insert into jobs
select n,
       (
         awa.enqueue_unique(pg_temp.q(), n, unique_key => pg_temp.q(' ' || n),
           run_at => case n when 'scheduled' then timestamptz '2130-01-01' end)
       ).job_id
  from unnest(array['available', 'scheduled', 'bystander']) n;
select pg_temp.step('setup') \g /dev/null
-- By what it is made of
insert into jobs
select 'by args', (awa.enqueue_unique(pg_temp.q(' by'), pg_temp.q(), '{"a": 1}')).job_id
union all select 'by queue', (awa.enqueue_unique(pg_temp.q(' by'), 'k', unique_by => '{queue}')).job_id
union all
select 'by period', (awa.enqueue_unique(pg_temp.q(' by'), pg_temp.q(), '{"a": 1}', unique_period => '10 years')).job_id;

begin;
select plan(41);

create function pg_temp.cancelled(args text) returns bigint
language plpgsql
as $$
declare
  v_id bigint;
  v_rows bigint;
begin
  execute 'select min(c), count(*) from awa.cancel_by_unique_key(' || args || ') c' into v_id, v_rows;
  return case when v_rows > 0 then v_id end;
end
$$;

-- In every state
select is(pg_temp.cancelled(format('unique_key => %L', pg_temp.q(' ' || s))), (select id from jobs where n = s),
  'a job that is ' || s || ' is cancelled, and its id returned')
  from unnest(array['scheduled', 'available', 'retryable', 'running', 'leased']) s;
select is((
  select string_agg(distinct j.state, ' ')
    from jobs, awa.job(jobs.id) j
   where jobs.n in ('scheduled', 'available', 'retryable', 'running', 'leased')
),
  'cancelled', 'they all are');
select is((
  select array_agg(l.reason || ' ' || c.n order by c.n) from awa.heartbeat(:worker_id) l join c using (job_id, receipt)
),
  '{"cancelled leased","cancelled running"}', 'workers learn which attempts they lost');
select is(pg_temp.outcome(format('select awa.complete(%s, %s)', job_id, receipt)), 'JQ001',
  'and their answers are stale: ' || n)
  from c
 where n in ('running', 'leased')
 order by n;
select is(pg_temp.cancelled(format('unique_key => %L', pg_temp.q(' ' || s))), null,
  'a job that is ' || s || ' has ended, though it holds its key: no row')
  from unnest(array['completed', 'failed', 'cancelled', 'dead']) s;
select is((
  select string_agg(j.state, ' ' order by jobs.n)
    from jobs, awa.job(jobs.id) j
   where jobs.n in ('completed', 'failed', 'cancelled', 'dead')
),
  'cancelled completed dead failed', 'and stays what it is');
select is((select j.state from jobs, awa.job(jobs.id) j where jobs.n = 'bystander'), 'available', 'as do others');
select is(pg_temp.cancelled(format('unique_key => %L', pg_temp.q(' available'))), null, 'a second call finds nothing');
select is((select inserted from awa.enqueue_unique(pg_temp.q(), 'k', unique_key => pg_temp.q(' available'))), true,
  'the key is free again');
select is(pg_temp.cancelled(format('unique_key => %L', pg_temp.q(' unheard of'))), null,
  'a key that no job ever held: no row');
select is((select errors -> -1 ->> 'error' from jobs, awa.job(jobs.id) j where jobs.n = 'available'), 'cancelled',
  'the reason says that it was cancelled');

-- The key as enqueue_unique takes it
select is(pg_temp.cancelled(format('%L, %L, %L', pg_temp.q(' elsewhere'), pg_temp.q(), '{"a": 2}')), null,
  'other args, another key');
select is(pg_temp.cancelled(
  format('%L, %L, %L, unique_by => %L', pg_temp.q(' by'), pg_temp.q(), '{"a": 1}', '{queue,kind,args}')
),
  null, 'made of something else, another key');
select is(pg_temp.cancelled(format('kind => %L, args => %L', pg_temp.q(), '{"a": 1}')),
  (select id from jobs where n = 'by args'), 'by its kind and args, without a queue');
select is(pg_temp.cancelled(format('queue => %L, unique_by => %L', pg_temp.q(' by'), '{queue}')),
  (select id from jobs where n = 'by queue'), 'by its queue, without a kind');
select is(pg_temp.cancelled(
  format('%L, %L, %L, null, null, %L', pg_temp.q(' by'), pg_temp.q(), '{"a": 1}', '10 years')
),
  (select id from jobs where n = 'by period'), 'by its period; explicit nulls mean the defaults');

-- It decides at commit
set constraints all immediate\; set local idle_in_transaction_session_timeout = 0;
select pg_temp.agrees('the books balance once it is decided');
select pg_temp.steps_agree();
set constraints all deferred;
savepoint undone;
select is(pg_temp.cancelled(format('unique_key => %L', pg_temp.q(' bystander'))),
  (select id from jobs where n = 'bystander'), 'one more');
rollback to undone;
select is((select j.state from jobs, awa.job(jobs.id) j where jobs.n = 'bystander'), 'available',
  'that rolls back never was');

-- Refusals
select pg_temp.refused(format('select * from awa.cancel_by_unique_key(%s)', c.args), '22023', c.names, c.description)
  from (values
    (1, '', 'kind', 'nothing at all'),
    (2, $$'q', null$$, 'kind', 'no kind, which the key is made of'),
    (3, $$'q', ''$$, 'kind', 'an empty kind'),
    (4, $$'q', null, unique_by => null$$, 'kind', 'no kind, and the default key'),
    (5, $$null, 'k', unique_by => '{queue,kind}'$$, 'queue', 'no queue, which the key is made of'),
    (6, $$repeat('q', 201), 'k', unique_by => '{queue}'$$, 'queue', 'a queue of 201 characters'),
    (7, $$unique_key => ''$$, 'unique_key', 'an empty key'),
    (8, $$unique_key => repeat('k', 10001)$$, 'unique_key', 'a key of 10,001 characters'),
    (9, $$'q', 'k', unique_by => '{}'$$, 'unique_by', 'a key of nothing'),
    (10, $$'q', 'k', unique_by => '{tags}'$$, 'unique_by', 'a key of what there is not'),
    (11, $$'q', 'k', unique_by => array['kind', null]$$, 'unique_by', 'a part that is null'),
    (12, $$unique_key => 'k', unique_period => '0'$$, 'unique_period', 'no period'),
    (13, $$unique_key => 'k', unique_period => '11 years'$$, 'unique_period', 'a period of 11 years')
  ) c(n, args, names, description)
 order by c.n;

select * from finish();
rollback;
