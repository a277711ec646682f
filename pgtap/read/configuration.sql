-- Without this, nobody but the owner could read the settings, or know what may be set.
\set name configuration
\ir ../prelude.psql

begin;
select plan(9);

select is((select array_agg(c.name order by c.name) from awa.configuration() c),
  (select array_agg(k.name order by k.name) from awa._known_settings k where not k.of_queue),
  'one row for each setting');
select is((select array_agg(c.name) from awa.configuration() c),
  (select array_agg(c.name order by c.name) from awa.configuration() c), 'by name');
select awa.configure('{"claim_wait": "90 seconds", "claim_bytes": 7,
  "warn_failed_share": 0.125, "notifications": false}') \g /dev/null
select is(
  (select jsonb_agg(to_jsonb(c) - 'description' order by c.name) from awa.configuration() c
    where c.name in ('claim_wait', 'claim_bytes', 'warn_failed_share', 'notifications')),
  '[{"name": "claim_bytes", "type": "integer", "value": 7, "default_value": 184320,
     "min_value": 1, "max_value": 1000000000},
    {"name": "claim_wait", "type": "interval", "value": "00:01:30", "default_value": "00:00:05",
     "min_value": "00:00:00.001", "max_value": "01:00:00"},
    {"name": "notifications", "type": "boolean", "value": false, "default_value": true,
     "min_value": null, "max_value": null},
    {"name": "warn_failed_share", "type": "number", "value": 0.125, "default_value": 0.25,
     "min_value": 0, "max_value": 1}]',
  'the value that holds, the default, the range and the type');
select is((select array_agg(c.name) from awa.configuration() c where coalesce(c.description, '') = ''), null,
  'each is described');
select is((select array_agg(c.name) from awa.configuration() c
  where (c.type = 'boolean') <> (c.min_value is null and c.max_value is null)), null,
  'all but true or false have a range');
select is((select array_agg(c.name) from awa.configuration() c
  where (c.value <> c.default_value) <> (c.name in ('claim_wait', 'claim_bytes', 'warn_failed_share',
  'notifications'))), null, 'one sees which were changed');
set local intervalstyle = iso_8601;
select is((select c.value from awa.configuration() c where c.name = 'claim_wait'), '"00:01:30"',
  'intervals are written in one way, whatever the session''s IntervalStyle');
create temp table before as select c.* from awa.configuration() c;
select awa.configure((select jsonb_object_agg(c.name, null) from awa.configuration() c)),
  awa.configure((select jsonb_object_agg(b.name, b.value) from before b)) \g /dev/null
select is((select count(*) from (select b.name, b.value from before b except select c.name, c.value
  from awa.configuration() c) d), 0::bigint, 'configure takes what it returns');

set local session_replication_role = replica;
delete from awa.settings;
select is((select array_agg(distinct coalesce(c.value, 'null')) from awa.configuration() c), array['null']::jsonb[],
  'no value where the row is missing');

select * from finish();
rollback;
