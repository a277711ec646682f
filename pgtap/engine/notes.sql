-- Without this, nobody would know who changed what, or each session would pay for it. What is noted of each function is
-- tested with start_change.
\set name notes
\ir ../prelude.psql

begin;
select plan(6);

select is(awa._without_nulls('{"a": 1, "b": null, "c": {"d": null}}'), '{"a": 1, "c": {"d": null}}',
  'fields that are null are left out');
select is(awa._without_nulls('{"a": null}'), '{}', 'and nothing is an empty object');
select is(awa._actor(), null, 'a session acts for nobody');
select awa._note_change('move', '{}') \g /dev/null
select is((select count(*) from awa.list_changes()), 0::bigint, 'and then nothing is noted');
select set_config('awa.actor', repeat('a', 2000), true) \g /dev/null
select is(length(awa._actor()), 1000, 'of a long name the beginning is kept');
select awa._note_change('move', '{"queue": "q", "reason": null}', '{"a": null}', 7) \g /dev/null
select is((select row(c.action, c.filter, c.options, c.found, c.changed, c.state)::text from awa.list_changes() c),
  '(move,"{""queue"": ""q""}",{},7,7,finished)', 'otherwise it is');

select * from finish();
rollback;
