-- Without this, a change that was started by mistake would go on to its end.
\set name stop_change
\ir ../prelude.psql

select count(*) from awa.enqueue_many(:'queue', 'k', array_fill('{}'::jsonb, array[5])) \g /dev/null

begin;
select plan(9);

select awa.start_change('cancel', jsonb_build_object('queue', pg_temp.q())) as change_id \gset
select changed from awa.apply_changes(2) \g /dev/null
select is(awa.stop_change(change_id => :change_id)::text, '', 'stop_change returns nothing');
select is(pg_temp.states(), 'available 3, cancelled 2', 'what was changed stays so');
select results_eq('select changed, more from awa.apply_changes()', 'values (0::bigint, false)', 'and nothing follows');
select results_eq('select state, found, changed, ended_at between now() and clock_timestamp() from awa.list_changes()',
  $$values ('stopped', 2::bigint, 2::bigint, true)$$, 'it is listed as stopped');
create temp table stopped as select * from awa.list_changes();
select awa.stop_change(:change_id) \g /dev/null
select results_eq('select to_jsonb(c) from awa.list_changes() c', 'select to_jsonb(s) from stopped s',
  'a change that has ended stays as it is');
select pg_temp.refused('select awa.stop_change(null)', '22023', 'change_id', 'no change');
select pg_temp.refused(format('select awa.stop_change(%s)', id), 'JQ008', 'no such change', 'change ' || id)
  from unnest(array[0, 9223372036854775807]) with ordinality u(id, n)
 order by n;
select is(current_setting('lock_timeout'), '0', 'the caller''s lock_timeout is as it was');

select * from finish();
rollback;
