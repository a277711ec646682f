-- Without this, no user could tell from a database which functions are installed in it.
\set name version
\ir ../prelude.psql

begin;
select plan(2);
select matches(awa.version(), '^\d+\.\d+\.\d+$', 'version returns three numbers');
select is((select p.provolatile from pg_proc p where p.oid = 'awa.version'::regproc), 's',
  'and reads nothing that changes within a statement');
select * from finish();
rollback;
