-- Without this, a job would be found from its id only by reading the segment.
\set name summarize
\ir ../prelude.psql

begin;
select plan(5);

select pg_temp.fill(pg_temp.q(), 10000) \g /dev/null
select setval('awa.pass_clock_summarize', 1) \g /dev/null
select cmp_ok((select summarized from awa.summarize()), '>=', 1::bigint, 'entries that no summary has get one');
select is((select summarized from awa.summarize()), 0::bigint, 'once');
select ok(awa._succeeded_at('summarize') > clock_timestamp() - interval '1 minute', 'it has succeeded');
select is(current_setting('lock_timeout'), '0', 'the caller''s lock_timeout is as it was');
select is((select count(*) from awa.summarize_row), 0::bigint, 'the view that names the column is empty');

select * from finish();
rollback;
