-- Without this, health would name a process by a number, and it would not be noticed whose it is.
\set name backends
\ir ../prelude.psql
begin;
select plan(9);

set local application_name = 'the tests';
select is(awa._backend(pg_backend_pid()), format('backend %s (%s, the tests)', pg_backend_pid(), session_user),
  'a session is told by its process, its role, and how it calls itself');
set local application_name = '';
select pg_stat_clear_snapshot() \g /dev/null
select is(awa._backend(pg_backend_pid()), format('backend %s (%s)', pg_backend_pid(), session_user),
  'or does not call itself');
select is(awa._backend(-1), null, 'where there is none there is nothing to say');
select is(awa._backend(null), null, 'nor of no process');
select is(awa._is_in_progress(pg_current_xact_id()::xid), true, 'a transaction is in progress');
select is(awa._is_in_progress('3'), false, 'not one that has ended long ago');
select is(awa._is_in_progress((pg_current_xact_id()::text::bigint + 1000000)::text::xid), false, 'nor one to come');
select is(awa._row_holder('awa.schedules', pg_current_xact_id()::xid), null, 'this session holds it');
-- Claimers whose clients don't read are covered by tests with several sessions
select awa._lock_for(array[awa._queue_key(awa._queue_id(:'queue'))], '1 second') \g /dev/null
select is((select count(*) from awa._stuck_claimers s where s.pid = pg_backend_pid()), 0::bigint,
  'a session that holds a queue, and works, is not stuck');

select * from finish();
rollback;
