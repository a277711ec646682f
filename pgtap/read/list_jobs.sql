-- Without this, somebody who looks at a queue would see jobs twice, or never come to the last page.
\set name list_jobs
\ir ../prelude.psql
\ir states.psql

select count(*)
  from awa.enqueue_many(:'queue' || ' many', 'k', array(select to_jsonb(n) from generate_series(1, 250) n)) \g /dev/null
select awa.enqueue(:'queue', 'other') as other_id \gset
update awa.ready_entries
   set tags = '{eu}'
 where job_id in (select id from kinds where name in ('available', 'running', 'completed', 'released'));
update awa.deferred_jobs
   set tags = '{eu}'
 where job_id in (select id from kinds where name in ('scheduled', 'retryable'));
update awa.done_entries
   set tags = '{eu}'
 where job_id in (select id from kinds where name in ('failed', 'cancelled', 'output'));
update awa.done_entries set tags = '{eu}' where job_id in (select id from kinds where name = 'dead');
update awa.leases set tags = '{eu}' where job_id in (select id from kinds where name = 'leased');

begin;
select plan(61);

-- Order and pages
select is((select count(*) from awa.list_jobs(queue => pg_temp.q(' many'))), 100::bigint,
  'a page is 100 jobs unless told otherwise');
select is((select count(*) from awa.list_jobs(pg_temp.q(' many'), null, null, null, null)), 100::bigint,
  'an explicit null means the default');
select is(
  (
    select array_agg((l.args #>> '{}')::int order by l.n)
      from rows
      from (awa.list_jobs(pg_temp.q(' many'))) with ordinality l(id, kind, queue, args, state, priority, attempt,
        max_attempts, run_at, heartbeat_at,
    deadline_at, attempted_at, finalized_at, created_at, errors, metadata, tags, unique_key, receipt, progress, output,
    worker_id, n)), array(select n from generate_series(250, 151, -1) n), 'newest first');
select id as before_id from awa.list_jobs(:'queue' || ' many', max_jobs => 100) order by id limit 1 \gset
select is((
  select array_agg((l.args #>> '{}')::int)
    from awa.list_jobs(pg_temp.q(' many'), before_id => :before_id, max_jobs => 100) l
),
  array(select n from generate_series(150, 51, -1) n), 'the next page goes on before the last id of this one');
create temp table pages (page int, id bigint);
do $$
declare
  v_before bigint;
begin
  for n in 1..40 loop
    insert into pages select n, l.id from awa.list_jobs(pg_temp.q(' many'), before_id => v_before, max_jobs => 7) l;
    select min(p.id) into v_before from pages p;
  end loop;
end
$$;
select is((select count(*) from pages), 250::bigint, 'pages hold every job');
select is((select count(distinct id) from pages), 250::bigint, 'once');
select is((select count(distinct page) from pages), 36::bigint, 'each page is full but the last');
select is((select count(*) from awa.list_jobs(pg_temp.q(' many'), max_jobs => 10000)), 250::bigint,
  '10,000 may be asked for');
select is((select array_agg(l.id) from awa.list_jobs(max_jobs => 3) l),
  (select array_agg(id) from (select j.id from awa.jobs j order by j.id desc limit 3) j),
  'without a filter: the newest of all');
select is((select count(*) from awa.list_jobs(pg_temp.q(' many'), before_id => 9223372036854775807, max_jobs => 10)),
  10::bigint, 'before the last id there can be is the first page');
select is((select count(*) from awa.list_jobs(pg_temp.q(' many'), before_id => n)), 0::bigint,
  format('there is nothing before %s', n))
  from unnest(array[1, 0, -1, -9223372036854775808]::bigint[]) with ordinality u(n, place)
 order by place;

-- Filters
select is((select array_agg(l.id order by l.id) from awa.list_jobs(queue => pg_temp.q(), state => s) l),
  (select array_agg(j.id order by j.id) from awa.jobs j where j.queue = pg_temp.q() and j.state = s), 'state ' || s)
  from unnest(
    array['available', 'scheduled', 'retryable', 'running', 'waiting_external', 'completed', 'failed', 'cancelled',
      'dead']
  ) with ordinality u(s, n)
 order by n;
select is((select array_agg(l.id) from awa.list_jobs(pg_temp.q(), kind => 'other') l), array[:other_id]::bigint[],
  'a kind');
select is((select array_agg(l.kind) from awa.list_jobs(pg_temp.q(), 'completed', 'output') l), '{output}',
  'a queue, a state and a kind');
select is((select array_agg(l.kind) from awa.list_jobs(pg_temp.q(), s, s) l), array[s],
  'a state with an index of its own, and a kind: ' || s)
  from unnest(array['scheduled', 'retryable', 'failed']) s;
select is((select count(*) from awa.list_jobs(pg_temp.q(), s, 'no such kind')), 0::bigint, 'no such kind, state ' || s)
  from unnest(array['scheduled', 'failed', 'completed']) s;
select is((select count(*) from awa.list_jobs(pg_temp.q(' unknown'))), 0::bigint, 'no such queue');
select is((select count(*) from awa.list_jobs(pg_temp.q(), 'failed', before_id => k.id)), 0::bigint,
  'a filter and a page')
  from kinds k
 where k.name = 'failed';
select is((select array_agg(to_jsonb(l) order by l.id) from awa.list_jobs(pg_temp.q()) l),
  (select array_agg(to_jsonb(j) order by j.id) from awa.jobs j where j.queue = pg_temp.q()),
  'rows are those of awa.jobs');

-- By tag, and by what the arguments contain
select is((select array_agg(l.id order by l.id) from awa.list_jobs(pg_temp.q(), s, tag => 'eu') l),
  (
    select array_agg(j.id order by j.id)
      from awa.jobs j
     where j.queue = pg_temp.q() and j.state = s and j.tags @> '{eu}'
  ),
  'a tag, state ' || s)
  from unnest(
    array['available', 'scheduled', 'retryable', 'running', 'completed', 'failed', 'cancelled', 'dead']
  ) with ordinality u(s, n)
 order by n;
select is((select count(*) from awa.list_jobs(pg_temp.q(), tag => 'eu')), 11::bigint, 'a tag, any state');
select is((select array_agg(l.args) from awa.list_jobs(pg_temp.q(), s, args => to_jsonb(s)) l), array[to_jsonb(s)],
  'arguments, state ' || s)
  from unnest(array['retryable', 'running', 'completed', 'failed', 'cancelled', 'dead']) with ordinality u(s, n)
 order by n;
select is((select array_agg(l.args order by l.id) from awa.list_jobs(pg_temp.q(' many'), args => '17') l), '{17}',
  'arguments, any state');
select is((select array_agg(l.id) from awa.list_jobs(pg_temp.q(' many'), args => '17', tag => 'eu') l), null,
  'both have to match');
select is((select count(*) from awa.list_jobs(pg_temp.q(), tag => 'eu', max_jobs => 3)), 3::bigint, 'a page of them');
select is((
  select count(*)
    from awa.list_jobs(pg_temp.q(), tag => 'eu',
      before_id => (select min(l.id) from awa.list_jobs(pg_temp.q(), tag => 'eu', max_jobs => 3) l))
),
  8::bigint, 'and the next one');

-- Refusals
select pg_temp.refused(format('select * from awa.list_jobs(%s)', c.args), '22023', c.names, c.description)
  from (values
    (1, 'max_jobs => 0', 'max_jobs', 'no jobs'), (2, 'max_jobs => -1', 'max_jobs', '-1 jobs'),
    (3, 'max_jobs => 10001', 'max_jobs', '10,001 jobs'),
    (4, 'max_jobs => 2147483647', 'max_jobs', 'as many jobs as an integer can say'),
    (5, $$state => 'done'$$, 'state', 'a state that there is not'), (6, $$state => ''$$, 'state', 'an empty state'),
    (7, $$state => 'Running'$$, 'state', 'a state in capitals'), (8, $$tag => ''$$, 'tag', 'an empty tag')
  ) c(n, args, names, description)
 order by c.n;

select * from finish();
rollback;
