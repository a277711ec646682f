-- Without this, a new state would have to be written down in a dozen places, and would be forgotten in one.
\set name states
\ir ../prelude.psql
begin;
select plan(27);

select is(awa._states('known'),
  '{scheduled,available,running,retryable,waiting_external,completed,failed,cancelled,dead}', 'the states there are');
select is(awa._states('live'), '{scheduled,available,running,retryable,waiting_external}',
  'those in which a job has not ended');
select is(awa._states('cancellable'), awa._states('live'), 'in which it can be cancelled');
select is(awa._states('ended'), '{completed,failed,cancelled,dead}', 'those in which it has');
select is(awa._states('retriable'), '{scheduled,retryable,failed,cancelled,dead}', 'those from which it can run again');
select is(awa._states('holds_group'), '{scheduled,available,retryable,waiting_external,failed,dead}',
  'those in which its group may be reserved for it');
select is(awa._states('logged'), '{available,running,completed}', 'the log holds jobs in these');
select is(awa._states('deferred'), '{scheduled,retryable}', 'deferred_jobs in these');
select is(awa._states('done'), '{failed,cancelled,dead}', 'and done_entries alone in these');
select is((
  select array_agg(s) from unnest(awa._states('known')) s
   where s <> all(awa._states('logged') || awa._states('deferred') || awa._states('done'))
),
  '{waiting_external}', 'each state has one of these, but the reserved one');
select is((
  select array_agg(s) from unnest(awa._states('ended')) s where s <> all(awa._states('done'))
),
  '{completed}', 'what ended otherwise than it should has a row of its own');
select is(awa._states('completed_retention'), '{completed}', 'a setting says how long completed jobs are kept');
select is(awa._states('failed_retention'), '{failed,cancelled}', 'another one how long failed and cancelled ones are');
select is(awa._states('dlq_retention'), '{dead}', 'and a third one how long dead letters are');
select is(awa._states('other'), null, 'nothing else is known of them');
-- Lists that can't be derived say the same
select is(
  (
    select array_agg(m[1] order by m[1])
      from regexp_matches((
        select pg_get_constraintdef(c.oid)
          from pg_constraint c
         where c.conrelid = 'awa.done_entries'::regclass and c.contype = 'c' and pg_get_constraintdef(c.oid) ~ 'state'
      ),
        '''(\w+)''', 'g') m
  ),
  (select array_agg(s order by s) from unnest(awa._states('ended')) s), 'ended jobs are in states of the end');
select is(
  (
    select array_agg(m[1] order by m[1])
      from regexp_matches((
        select pg_get_constraintdef(c.oid)
          from pg_constraint c
         where c.conrelid = 'awa.deferred_jobs'::regclass and c.contype = 'c' and pg_get_constraintdef(c.oid) ~ 'state'
      ),
        '''(\w+)''', 'g') m
  ),
  (select array_agg(s order by s) from unnest(awa._states('deferred')) s), 'deferred ones in theirs');
select is(
  (
    select array_agg(a.attname::text order by a.attname)
      from pg_attribute a
     where a.attrelid = 'awa.queue_counts_row'::regclass
       and a.attnum > 0
       and a.attname not in ('queue', 'oldest_ready_at', 'limited')
  ),
  (select array_agg(s order by s) from unnest(awa._states('known')) s), 'each is counted');
select is((
  select array_agg(s order by s)
    from unnest(awa._states('known')) s
   where not exists (select from pg_attribute a where a.attrelid = 'awa.audit_row'::regclass and a.attname = s)
),
  null, 'and in the books');

select is((
  select array_agg(s order by s)
    from pg_attribute a
   cross join unnest(awa._states('counted_as_' || a.attname)) s
   where a.attrelid = 'awa.queue_counts_row'::regclass and a.attnum > 0
),
  (select array_agg(s order by s) from unnest(awa._states('known')) s), 'in one column');
select is(awa._jobs_in((null, 1, 10, 100, 1000, 10000, 100000, 0, 0, 5, null, 7)::awa.queue_counts_row, 'live'),
  11111::bigint, 'live jobs are counted by their states');

-- Without a flag of its own for the queue, the tenth state would say of each key that its queue is a part of it
select cmp_ok(cardinality(awa._states('known')), '<=', 14, 'each state has a bit of a unique key');
do $do$
declare
  v_old constant text := pg_get_functiondef('awa._states'::regproc);
  v_new text := replace(v_old,
    '(9, ''dead'',             false, true,  true,  true,  ''done'',     ''dead'',             ''dlq_retention'')',
    (
      select '(9, ''dead'', false, true, true, true, ''done'', ''dead'', ''dlq_retention'')'
        || string_agg(format(', (%s, %L, true, false, false, true, %L, ''scheduled'', null)', n, 'state' || n,
             case when n > 10 then 'deferred' end), '' order by n)
        from generate_series(10, 14) n
    ));
begin
  if v_new = v_old then
    raise 'awa._states does not hold this piece';
  end if;
  execute v_new;
end
$do$;
-- It is counted as its row says
alter table awa.deferred_jobs drop constraint deferred_jobs_state_check;
select awa.enqueue(:'queue' || ' counted', 'k', run_at => now() + interval '1 day')
  from generate_series(1, 3) \g /dev/null
update awa.deferred_jobs d
   set state = case when d.job_id % 2 = 0 then 'state11' else 'state12' end
 where d.lane = awa._lane(awa._queue_id(:'queue' || ' counted'), 2);
select is((
  select row(c.scheduled, c.waiting_external, c.retryable)::text from awa._queue_counts(:'queue' || ' counted') c
),
  '(3,0,0)', 'a new state is counted as its row says');
select is((
  select array_agg(awa._names_queue(awa._unique_key('q', 'k', '{}', null, b, null, null, null, now())) order by n)
    from (values (1, '{queue}'::text[]), (2, '{kind,args}')) b(n, b)
),
  '{t,f}', 'with fourteen states, keys still say whether their queue is a part of them');
select awa.move((awa.enqueue_unique(:'queue', 'k', unique_key => :'queue')).job_id, :'queue' || ' other') \g /dev/null
select is((awa.enqueue_unique(:'queue' || ' other', 'k', unique_key => :'queue')).inserted, false,
  'a job that is moved keeps its key');
select is(awa._holds(awa._unique_key('q', 'k', '{}', null, '{queue}', null, null, '{state14}', now()), s.s),
  s.s = 'state14', 'a key of one queue is held in the last state alone: ' || s.s)
  from unnest('{state14}'::text[]) s(s);
-- A state for which cancel has no way is refused by name
create or replace function awa._locate(job_id bigint, hidden boolean default false) returns awa._place
language sql
return (select (p.id, 'state10', null, p.lane, p.priority, p.xid, p.segment, p.unique_key)::awa._place
          from awa._place p where p.id = job_id);
select awa.enqueue(:'queue', 'k') as id \gset
do $$
declare
  v_detail text;
begin
  perform awa.cancel((select max(p.id) from awa._place p));
exception when sqlstate 'JQ005' then
  get stacked diagnostics v_detail = pg_exception_detail;
  perform set_config('test.detail', v_detail, true);
end
$$;
select is(current_setting('test.detail', true), format('Job %s is state10.', :id),
  'a state that cancel does not handle is refused by name');

select * from finish();
rollback;
