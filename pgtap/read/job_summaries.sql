-- Without this, a list of jobs would read all that they hold: a page of fifty jobs of 30 MB takes minutes.
\set name job_summaries
\ir ../prelude.psql

-- Large as text and small as stored, or large in both ways; 30 MB where it is not a question of how many.
create function pg_temp.noise(bytes int) returns jsonb
language sql
as $$ select to_jsonb(string_agg(md5(random()::text), '')) from generate_series(1, bytes / 32) $$;
create temp table bodies as
select 'noise' as what, jsonb_build_object('large', pg_temp.noise(1000000)) as args
union all select 'long', jsonb_build_object('large', repeat('x', 30000000))
union all select 'both', jsonb_build_object('large', pg_temp.noise(30000000));
select awa.enqueue(:'queue' || s, b.what, b.args)
  from unnest(
    '{" available"," running"," materialized"," completed"," output"," failed"," dead"," retryable"}'::text[]) s
 cross join bodies b
 where b.what <> 'both' or s = ' available' \g /dev/null
select awa.enqueue(:'queue' || ' later', b.what, b.args, run_at => '2130-01-01') from bodies b where b.what <> 'both'
  \g /dev/null
select awa.enqueue(:'queue' || ' small', 'k', '{"customer": 7}', tags => '{a,b}', group_key => 'g', priority => 3)
  as small_id \gset
select awa.register_worker('w') as worker_id, awa.register_worker('v') as other_id \gset
select count(*) from awa.claim(:'queue' || ' running', 9, :worker_id) \g /dev/null
select count(*) from awa.claim(:'queue' || ' materialized', 1, :worker_id) \g /dev/null
select count(*) from awa.claim(:'queue' || ' materialized', 1, :other_id) \g /dev/null
select count(m) from awa.materialize('0') m \g /dev/null
select count(*) from awa.claim(:'queue' || ' running', 9, :worker_id) \g /dev/null
select awa.complete(c.job_id, c.receipt) from pg_temp.take(' completed', 2) c \g /dev/null
select awa.complete(c.job_id, c.receipt, pg_temp.noise(1000000)) from pg_temp.take(' output', 2) c \g /dev/null
select awa.discard(c.job_id, c.receipt, 'e', pg_temp.noise(60000)) from pg_temp.take(' failed', 2) c
  \g /dev/null
select awa.configure_queue(:'queue' || ' dead', '{"dead_letter": true}') \g /dev/null
select awa.discard(c.job_id, c.receipt, repeat('word ', 5000)) from pg_temp.take(' dead', 2) c \g /dev/null
select awa.fail(c.job_id, c.receipt, pg_temp.noise(20000) #>> '{}', '1 day')
  from pg_temp.take(' retryable', 2) c \g /dev/null

begin;
select plan(39);

-- Rows that were read of what is stored apart.
create function pg_temp.parts_read() returns bigint
language sql
as $$
  select sum(t.seq_tup_read + t.idx_tup_fetch)
    from pg_stat_xact_all_tables t
    join pg_class c on c.reltoastrelid = t.relid
   where c.relnamespace = 'awa'::regnamespace
$$;
create function pg_temp.read(call text, out jobs bigint, out parts bigint)
language plpgsql
as $$
begin
  parts := pg_temp.parts_read();
  execute format('select count(s) from awa.%s s', call) into jobs;
  parts := pg_temp.parts_read() - parts;
end
$$;
select cmp_ok((pg_temp.read(format('list_jobs(%L)', pg_temp.q(' failed')))).parts, '>', 100::bigint,
  'list_jobs reads what is large');
select is(pg_temp.read(format('job_summaries(%L, state => %L)', pg_temp.q(' ' || s[1]), s[2])),
  (s[3]::bigint, 0::bigint), format('job_summaries does not: %s jobs that are %s', s[1], s[2]))
  from (
    select string_to_array(s, ' ') as s
      from unnest('{available available 3,running running 2,materialized running 2,completed completed 2,'
        'output completed 2,failed failed 2,retryable retryable 2,later scheduled 2}'::text[]) s
  ) s;
select is(pg_temp.read(format('job_summaries(%L)', pg_temp.q(' ' || s[1]))), (s[2]::bigint, 0::bigint),
  format('nor of %s jobs without a state', s[1]))
  from (
    select string_to_array(s, ' ') as s
      from unnest('{available 3,running 2,materialized 2,completed 2,output 2,failed 2,retryable 2,later 2}'::text[]) s
  ) s;
select is(pg_temp.read(format('job_summaries(worker_id => %s)', :'worker_id')), (3::bigint, 0::bigint),
  'nor of those that a worker runs');
select is((select s.parts from pg_temp.read(format('job_summaries(job_ids => %L)', (
    select array_agg(j.id) from awa.jobs j where j.queue like pg_temp.q('%') and j.queue <> pg_temp.q(' dead')))) s),
  0::bigint, 'nor by ids');

-- What it tells
select is(
  (
    select row(s.id, s.kind, s.queue = pg_temp.q(' small'), s.state, s.priority, s.attempt, s.max_attempts, s.tags,
             s.group_key, s.args_start, s.args_bytes, s.last_error, s.errors_bytes < 20, s.run_at = s.created_at,
             s.attempted_at, s.finalized_at, s.deadline_at, s.expires_at, s.worker_id)::text
      from awa.job_summaries(pg_temp.q(' small')) s
  ),
  format('(%s,k,t,available,3,0,25,"{a,b}",g,"{""customer"": 7}",15,,t,t,,,,,)', :'small_id'), 'a small job');
select results_eq(
  format('select s.kind, s.args_start, s.args_bytes > 900000, s.args_bytes < 500000 from awa.job_summaries(%L) s '
    'order by s.id', pg_temp.q(' available')),
  $$values ('noise', null, true, false), ('long', null, false, true), ('both', null, true, false)$$,
  'of large arguments their bytes, as they are stored');
select is((select array_agg(distinct row(s.last_error, s.errors_bytes > 55000)::text)
    from awa.job_summaries(pg_temp.q(' failed')) s), '{"(,t)"}', 'of large errors, too');
select is((select array_agg(distinct s.last_error) from awa.job_summaries(pg_temp.q(' dead')) s),
  array[left(repeat('word ', 100), 300)], 'of others the beginning of the last one');
select is((select array_agg(s.id) from awa.job_summaries(worker_id => :worker_id) s),
  (select array_agg(j.id order by j.id desc) from awa.jobs j where j.worker_id = :worker_id and j.state = 'running'),
  'what a worker runs');
select is((select array_agg(s.id) from awa.job_summaries(state => 'running', worker_id => :other_id) s),
  (select array_agg(j.id) from awa.jobs j where j.worker_id = :other_id and j.state = 'running'), 'another worker');
select is((select count(*) from awa.job_summaries(pg_temp.q(' running'), worker_id => :other_id)), 0::bigint,
  'in another queue');

-- The same jobs as those of list_jobs
select is((select array_agg(s.id) from awa.job_summaries(queue => q, state => st, before_id => b, max_jobs => m) s),
  (select array_agg(j.id) from awa.list_jobs(queue => q, state => st, before_id => b, max_jobs => m) j),
  format('as list_jobs: %s %s %s %s', q is not null, st, b is not null, m))
  from (values (pg_temp.q(' small'), null, null::bigint, 10), (null, 'dead', null, 10), (null, 'available', null, 2),
    (null, null, :small_id, 2)) c(q, st, b, m);
select is((select array_agg(s.id) from awa.job_summaries(tag => 'a', args => '{"customer": 7}', group_key => 'g') s),
  array[:small_id]::bigint[], 'by a tag, arguments and a group');
select is((select count(*) from awa.job_summaries(pg_temp.q(' dead'), cause => repeat('word ', 5000))), 2::bigint,
  'by a cause');
select is((select count(*) from awa.job_summaries(job_ids => '{}')), 0::bigint, 'no ids');
select is((select array_agg(s.id) from awa.job_summaries(job_ids => array[null, :small_id, :small_id, -1]) s),
  array[:small_id]::bigint[], 'each id once');

select pg_temp.refused('select * from awa.job_summaries(state => ''dead'', worker_id => 1)', '22023', 'state',
  'a worker runs no dead jobs');
select pg_temp.refused('select * from awa.job_summaries(state => ''lost'')', '22023', 'state', 'no such state');
select pg_temp.refused('select * from awa.job_summaries(max_jobs => 0)', '22023', 'max_jobs', 'no jobs');
select pg_temp.refused('select * from awa.job_summaries(kind => ''k'', job_ids => ''{1}'')', '22023', 'job_ids',
  'ids, and another condition');
select pg_temp.refused(
  'select * from awa.job_summaries(job_ids => array(select n from generate_series(1, 10001) n))', '22023', 'job_ids',
  'too many ids');

select * from finish();
rollback;
