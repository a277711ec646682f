-- Without this, nobody could see who changed a million jobs, how far that has come, or why some were skipped.
\set name list_changes
\ir ../prelude.psql

begin;
select plan(12);

select is((select count(*) from awa.list_changes()), 0::bigint, 'there are none');
create temp table started as
select n, awa.start_change('cancel', jsonb_build_object('tag', n::text)) as id from generate_series(1, 105) n;
select is((select count(*) from awa.list_changes()), 100::bigint, 'a page of a hundred');
select is((select array_agg(c.change_id) from awa.list_changes(max_changes => 3) c),
  (select array_agg(id order by id desc) from started where n > 102), 'the newest first');
select is((select array_agg(c.change_id) from awa.list_changes(null, s.id, 2) c),
  (select array_agg(o.id order by o.id desc) from started o where o.n in (101, 100)), 'and then the next page')
  from started s
 where s.n = 102;
select awa.stop_change(id) from started where n = 50 \g /dev/null
select is((select array_agg(c.change_id) from awa.list_changes('stopped') c), array[id], 'of one state')
  from started
 where n = 50;
select is((select count(*) from awa.list_changes(state => 'running', max_changes => 1000)), 104::bigint,
  'the others are running');
select is((select count(*) from awa.list_changes(null, null, null)), 100::bigint, 'an explicit null means the default');
select is((select count(*) from awa.list_changes_row), 0::bigint, 'the view that names the columns is empty');
select pg_temp.refused('select * from awa.list_changes(''on'')', '22023', 'state', 'an unknown state');
select pg_temp.refused(format('select * from awa.list_changes(max_changes => %s)', n), '22023', 'max_changes',
  'a page of ' || n)
  from unnest(array[-1, 0, 1001]) with ordinality u(n, place)
 order by place;

select * from finish();
rollback;
