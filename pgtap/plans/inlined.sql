-- Without this, a function in the language SQL could stand in a statement of a hot call without becoming a part of it:
-- then each call plans the function anew, which costs more than the rest. A stable function with a volatile expression
-- is such a one, and one that returns a value and reads a table.
\set name inlined
\ir ../prelude.psql

select count(*) from awa.enqueue_many(:'queue', 'k', array_fill('{}'::jsonb, array[40])) \g /dev/null
select count(*) from awa.enqueue_many(:'queue' || ' overdue', 'k', array_fill('{}'::jsonb, array[20])) \g /dev/null
select count(*) from awa.enqueue_many(:'queue' || ' due', 'k', array_fill('{}'::jsonb, array[20]),
  run_at => clock_timestamp() + interval '1 millisecond') \g /dev/null
-- Queues whose groups are limited, in order, or served by turns, with slots to read, jobs in line, and holders
select awa.configure_queue(:'queue' || ' limited',
  '{"group_max_running": 2, "group_rate": {"jobs": 1000, "per": "1 second"}}') \g /dev/null
select awa.configure_queue(:'queue' || ' order', '{"group_order": "strict"}') \g /dev/null
select awa.configure_queue(:'queue' || ' turns', '{"group_turns": true, "group_max_running": 2}') \g /dev/null
create function pg_temp.fill() returns void
language sql
begin atomic
  select awa.enqueue(pg_temp.q(q), 'k', group_key => g::text)
    from unnest('{" limited"," order"," turns"}'::text[]) q
   cross join generate_series(1, 10) g
   cross join generate_series(1, 4) n;
end;
select pg_temp.fill() \g /dev/null
select awa.fail(c.job_id, c.receipt, 'e')
  from unnest('{" limited"," order"," turns"}'::text[]) q
 cross join lateral awa.claim(pg_temp.q(q), 20) c \g /dev/null
select pg_temp.fill() \g /dev/null

begin;
set local track_functions = 'all'; -- first: what is called before it is not tracked later
select plan(21);

create function pg_temp.calls() returns table (name name, calls bigint)
language plpgsql
as $$
begin
  return query
    select f.funcname, f.calls
      from pg_stat_xact_user_functions f
      join pg_proc p on p.oid = f.funcid
      join pg_language l on l.oid = p.prolang
     where f.schemaname = 'awa' and l.lanname = 'sql';
end
$$;
-- The functions in SQL that a call runs as functions, so many times or more
create function pg_temp.not_inlined(call text, times int default 1) returns text
language plpgsql
as $$
declare
  v_before jsonb := (select coalesce(jsonb_object_agg(c.name, c.calls), '{}') from pg_temp.calls() c);
begin
  execute call;
  return (
    select string_agg(format('%s %s times', c.name, c.calls - coalesce((v_before ->> c.name)::bigint, 0)), ', ')
      from pg_temp.calls() c
     where c.calls - coalesce((v_before ->> c.name)::bigint, 0) >= times
  );
end
$$;

create temp table c as select * from pg_temp.take('', 30);
create function pg_temp.next() returns c
language sql volatile
begin atomic
  delete from c where n = (select min(n) from c) returning *;
end;
create function pg_temp.answers(call text) returns text
language plpgsql
as $$
declare
  v_c c;
begin
  v_c := pg_temp.next();
  execute format(call, v_c.job_id, v_c.receipt); -- the first one plans
  v_c := pg_temp.next();
  return pg_temp.not_inlined(format(call, v_c.job_id, v_c.receipt));
end
$$;
select is(pg_temp.answers(f.call), null, f.call)
  from (values
    ('select awa.complete(%s, %s)'), ('select awa.complete(%s, %s, ''{}'')'), ('select awa.fail(%s, %s, ''e'')'),
    ('select awa.discard(%s, %s, ''e'')'), ('select awa.snooze(%s, %s, ''1 hour'')'), ('select awa.release(%s, %s)'),
    ('select awa.cancel_attempt(%s, %s)'), ('select awa.fail_many(array[%s], array[%s], ''{e}'')'),
    ('select awa.complete_many(array[%s], array[%s])')) f(call);

-- The first call of a kind computes what is constant.
select awa.enqueue(:'queue' || ' new', 'k') from generate_series(1, 2) \g /dev/null
select is(pg_temp.not_inlined(format('select awa.enqueue(%L, ''k'')', :'queue' || ' new')), null, 'enqueue');
select awa.enqueue(:'queue' || ' new', 'k', run_at => now() + interval '1 day') \g /dev/null
select is(pg_temp.not_inlined(format('select awa.enqueue(%L, ''k'', run_at => now() + interval ''1 day'')',
  :'queue' || ' new')), null, 'enqueue for a time');
create function pg_temp.batch(jobs int) returns jsonb
language sql
return (select jsonb_agg(jsonb_build_object('queue', pg_temp.q(' new'), 'kind', 'k')) from generate_series(1, jobs));
select is(pg_temp.not_inlined('select count(*) from awa.enqueue_batch(pg_temp.batch(20))', 20), null,
  'enqueue_batch of many');
select count(*) from awa.claim(:'queue') \g /dev/null
select is(pg_temp.not_inlined(format('select * from awa.claim(%L)', :'queue')), null, 'claim');

-- The state of each group
create function pg_temp.states(queue text, max_jobs int) returns text
language sql
return substring(pg_temp.not_inlined(format('select * from awa.claim(%L, %s)', pg_temp.q(queue), max_jobs))
  from '_group_state .*');
select is(pg_temp.states(q, 20), null, 'claim from the queue' || q)
  from unnest('{" limited"," order"," turns"}'::text[]) q;
select awa.configure_queue(pg_temp.q(q), '{"group_max_running": 3}')
  from unnest('{" limited"," turns"}'::text[]) q \g /dev/null
select is(concat(pg_temp.states(' limited', 20), pg_temp.states(' limited', 1), pg_temp.states(' turns', 20)), '',
  'and after a change of the limit');

-- Maintenance may call some of them once, but none for each job
create temp table o as select * from pg_temp.take(' overdue', 20);
select is(awa._materialize(array(select receipt from o), 20), 20::bigint, 'some attempts have rows of their own');
update awa.leases l set lease_until = clock_timestamp() - interval '1 hour' from o where l.receipt = o.receipt;
select is(pg_temp.not_inlined('select awa.rescue()', 20), null, 'rescue of many');
select is(pg_temp.not_inlined('select awa.promote_due()', 20), null, 'promote_due of many');

-- Nor is a statement planned anew for each job: an immutable function with constants runs when that is done.
update awa.deferred_jobs d set state = 'retryable' where d.job_id in (select job_id from o);
select is(
  pg_temp.not_inlined(format('select awa.retry_where(%L, state => ''retryable'')', :'queue' || ' overdue'), 20),
  null, 'retry_where of many');

select * from finish();
rollback;
