-- Without this, a client that does not read what it claimed would hold its queue until the connection breaks. That one
-- is ended is tested with two sessions.
\set name end_stuck_claimers
\ir ../prelude.psql

begin;
select plan(3);

select setval('awa.pass_clock_end_stuck_claimers', 1) \g /dev/null
select is((select ended from awa.end_stuck_claimers()), 0::bigint, 'where no session is stuck none is ended');
select ok(awa._succeeded_at('end_stuck_claimers') > clock_timestamp() - interval '1 minute', 'it has succeeded');
select is((select count(*) from awa.end_stuck_claimers_row), 0::bigint, 'the view that names the column is empty');

select * from finish();
rollback;
