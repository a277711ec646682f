-- Without this, a new state would have to be written down in a dozen places, and would be forgotten in one.
\set name states
\ir ../prelude.psql
begin;
select plan(10);

select is(awa._states('known'),
  '{scheduled,available,running,retryable,waiting_external,completed,failed,cancelled,dead}', 'the states there are');
select is(awa._states('live'), '{scheduled,available,running,retryable,waiting_external}',
  'those in which a job has not ended');
select is(awa._states('cancellable'), awa._states('live'), 'in which it can be cancelled');
select is(awa._states('ended'), '{completed,failed,cancelled,dead}', 'those in which it has');
select is(awa._states('retriable'), '{scheduled,retryable,failed,cancelled,dead}', 'those from which it can run again');
select is(awa._states('other'), null, 'nothing else is known of them');
-- What can't be derived says the same
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
  '{retryable,scheduled}', 'deferred ones in two');
select is(
  (
    select array_agg(a.attname::text order by a.attname)
      from pg_attribute a
     where a.attrelid = 'awa.queue_counts_row'::regclass
       and a.attnum > 0
       and a.attname not in ('queue', 'oldest_ready_at')
  ),
  (select array_agg(s order by s) from unnest(awa._states('known')) s), 'each is counted');
select is((
  select array_agg(s order by s)
    from unnest(awa._states('known')) s
   where not exists (select from pg_attribute a where a.attrelid = 'awa.audit_row'::regclass and a.attname = s)
),
  null, 'and in the books');

select * from finish();
rollback;
