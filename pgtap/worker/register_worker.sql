-- Without this, a worker process could not be told from another, nor its silence from its work.
\set name register_worker
\ir ../prelude.psql

begin;
select plan(18);

create temp table w as
select awa.register_worker(name => pg_temp.q(), queues => '{a,b}', info => '{"pid": 1}') as worker_id;
select isnt((select worker_id from w), null, 'register_worker returns the worker''s id');
select is(
  (select row(t.name, t.queues, t.info, t.registered_by)::text from w join awa.workers t using (worker_id)),
  row(pg_temp.q(), '{a,b}'::text[], '{"pid": 1}'::jsonb, session_user)::text,
  'a worker is what it said, and who it is');
select ok((
  select t.started_at = t.heartbeat_at and t.started_at between now() - interval '1 second' and clock_timestamp()
    from w
    join awa.workers t using (worker_id)
),
  'started now, and alive');
create temp table plain as select awa.register_worker(pg_temp.q()) as worker_id;
select is((select row(t.queues, t.info)::text from plain join awa.workers t using (worker_id)), '(,)',
  'queues and info may be left out');
create temp table explicit as select awa.register_worker(pg_temp.q(), null, null) as worker_id;
select is((select row(t.queues, t.info)::text from explicit join awa.workers t using (worker_id)), '(,)',
  'an explicit null is the same');
select ok((select w.worker_id < p.worker_id and p.worker_id < e.worker_id from w, plain p, explicit e),
  'workers of one name have an id each');
select is((
  select t.name from awa.register_worker(repeat('ü', 200)) r(id) left join awa.workers t on t.worker_id = r.id
),
  null, 'a name of 200 characters of more than a byte is accepted');
select is((
  select count(*) from awa.workers t where t.name = repeat('ü', 200) and t.worker_id > (select worker_id from explicit)
),
  1::bigint, 'and kept');
select pg_temp.refused(format('select awa.register_worker(%s)', c.args), '22023', 'name', c.description)
  from (values (1, 'null', 'no name'), (2, $$''$$, 'an empty name'),
    (3, $$repeat('n', 201)$$, 'a name of 201 characters'),
    (4, $$repeat('ü', 201)$$, 'a name of 201 characters of more than a byte')) c(n, args, description)
 order by c.n;
select is((select t.member_of from explicit join awa.workers t using (worker_id)), null,
  'it is the login''s alone unless it says otherwise');
select is((
  select t.member_of
    from awa.register_worker(pg_temp.q(' member'), member_of => 'awa_worker') r(id)
    left join awa.workers t on t.worker_id = r.id
),
  null, 'it may be for members of a role');
select is((select t.member_of from awa.workers t where t.name = pg_temp.q(' member')), 'awa_worker', 'which it keeps');
select pg_temp.refused(format('select awa.register_worker(pg_temp.q(), member_of => %L)', c.role), '22023', 'member_of',
  c.description)
  from (values (1, 'pgtap_nobody_is_called_so', 'a role that is not there'),
    (2, '', 'an empty role')) c(n, role, description)
 order by c.n;
select is((select count(*) from awa.workers t where t.name = pg_temp.q()), 3::bigint,
  'a refused call registers nobody');

select * from finish();
rollback;
