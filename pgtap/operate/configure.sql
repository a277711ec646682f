-- Without this, a misspelt setting would be taken silently, or a bad one stop every claim of the installation.
\set name configure
\ir ../prelude.psql

-- What the settings are, and what they were before
create function pg_temp.set_now() returns jsonb
language sql
return (select to_jsonb(s) from awa.settings s);

begin;
select plan(86);
select awa.configure((select jsonb_object_agg(c.name, null) from awa.configuration() c)) \g /dev/null
create temp table defaults as select pg_temp.set_now() as settings;

-- Settings
create temp table told as
select awa.configure(settings => '{"claim_wait": "2 seconds", "claim_bytes": 1000, "segment_bytes": 2000000000,
  "segment_age": 1800, "completed_retention": "90 minutes", "carry_max": 7, "prune_wait": 0.1, "notifications": false,
  "warn_ready_age": "1 hour", "warn_failed_share": 0.5, "warn_silence": "2 minutes",
  "warn_transaction_age": "6 hours", "warn_group_age": "1 hour"}')::text as answer;
select is((select answer from told), '', 'configure returns nothing');
select is(pg_temp.set_now() - 'only_row', '{"claim_wait": "00:00:02", "claim_bytes": 1000, "segment_bytes": 2000000000,
  "segment_age": "00:30:00", "completed_retention": "01:30:00", "carry_max": 7, "prune_wait": "00:00:00.1",
  "notifications": false, "warn_ready_age": "01:00:00", "warn_failed_share": 0.5, "warn_silence": "00:02:00",
  "warn_transaction_age": "06:00:00", "warn_group_age": "01:00:00"}'::jsonb, 'every key is set');
create temp table set_all as select pg_temp.set_now() as settings;
select awa.configure('{"carry_max": 8}') \g /dev/null
select is(pg_temp.set_now(), (select settings || '{"carry_max": 8}' from set_all), 'those that are not named stay');
select awa.configure('{}') \g /dev/null
select is(pg_temp.set_now(), (select settings || '{"carry_max": 8}' from set_all), 'an empty object changes nothing');
select awa.configure(jsonb_build_object(k.name, null))
  from awa._known_settings k
 where not k.of_queue and k.name <> 'carry_max' \g /dev/null
select is(pg_temp.set_now(), (select settings || '{"carry_max": 8}' from defaults),
  'null brings the default of each key back, and of no other');
select awa.configure('{"carry_max": null, "claim_bytes": 2.0}') \g /dev/null
select is(pg_temp.set_now(), (select settings || '{"claim_bytes": 2}' from defaults),
  'a whole number may be written with a fraction of zero');
select awa.configure('{"claim_bytes": null}') \g /dev/null

-- Bounds
select is(pg_temp.outcome(format('select awa.configure(%L)', jsonb_build_object(c.name, c.min_value))), 'ok',
    c.name || ': the least')
  from awa.configuration() c where c.type <> 'boolean' order by c.name;
select is(pg_temp.outcome(format('select awa.configure(%L)', jsonb_build_object(c.name, c.max_value))), 'ok',
    c.name || ': the most')
  from awa.configuration() c where c.type <> 'boolean' order by c.name;
select awa.configure((select jsonb_object_agg(c.name, null) from awa.configuration() c)) \g /dev/null

-- Refusals
select pg_temp.refused(format('select awa.configure(%L)', c.settings), '22023', c.names,
  coalesce(c.settings, 'no settings'))
  from (values
    (1, null, 'settings'), (2, 'null', 'settings'), (3, '[]', 'settings'), (4, '"claim_wait"', 'settings'),
    (5, '{"claim_wat": 1}', 'settings'), (6, '{"claim_wait": 1, "Claim_wait": 1}', 'settings'),
    (7, '{"only_row": false}', 'settings'), (8, '{"": 1}', 'settings'), (9, '{"lease": 60}', 'settings'),
    (10, '{"claim_wait": 0}', 'claim_wait'), (11, '{"claim_wait": "-1 second"}', 'claim_wait'),
    (12, '{"claim_wait": "1 hour 1 second"}', 'claim_wait'), (13, '{"claim_wait": "soon"}', 'claim_wait'),
    (14, '{"claim_wait": true}', 'claim_wait'), (15, '{"claim_wait": "-1 year 360 days 1 second"}', 'claim_wait'),
    (16, '{"claim_wait": "infinity"}', 'claim_wait'), (17, '{"claim_wait": 1e300}', 'claim_wait'),
    (18, '{"claim_bytes": 0}', 'claim_bytes'), (19, '{"claim_bytes": 1000000001}', 'claim_bytes'),
    (20, '{"claim_bytes": "1000"}', 'claim_bytes'), (21, '{"claim_bytes": 1.5}', 'claim_bytes'),
    (22, '{"claim_bytes": [1]}', 'claim_bytes'),
    (23, '{"claim_bytes": 1e131071}', 'claim_bytes'), (24, '{"segment_bytes": 0}', 'segment_bytes'),
    (25, '{"segment_bytes": 9223372036854775808}', 'segment_bytes'), (26, '{"segment_age": 0}', 'segment_age'),
    (27, '{"segment_age": "101 years"}', 'segment_age'),
    (28, '{"completed_retention": "-1 second"}', 'completed_retention'),
    (29, '{"completed_retention": "101 years"}', 'completed_retention'),
    (30, '{"completed_retention": "1 year -365 days"}', 'completed_retention'), (31, '{"carry_max": -1}', 'carry_max'),
    (32, '{"carry_max": 10000001}', 'carry_max'), (33, '{"prune_wait": 0}', 'prune_wait'),
    (34, '{"prune_wait": "501 milliseconds"}', 'prune_wait'),
    (35, '{"notifications": "false"}', 'notifications'), (36, '{"notifications": 0}', 'notifications'),
    (37, '{"warn_ready_age": 0}', 'warn_ready_age'), (38, '{"warn_failed_share": -0.1}', 'warn_failed_share'),
    (39, '{"warn_failed_share": 1.1}', 'warn_failed_share'), (40, '{"warn_failed_share": "NaN"}', 'warn_failed_share'),
    (41, '{"warn_silence": "-1 second"}', 'warn_silence'),
    (42, '{"warn_transaction_age": "101 years"}', 'warn_transaction_age'),
    (43, '{"carry_max": 5, "claim_bytes": 0}', 'claim_bytes')
  ) c(n, settings, names)
 order by c.n;
-- The message says what may be set
create function pg_temp.message(settings text) returns text
language plpgsql
as $$
begin
  perform awa.configure(settings::jsonb);
  return null;
exception when invalid_parameter_value then
  return sqlerrm;
end
$$;
select is(pg_temp.message(m.settings), m.message, m.message)
  from (values
    (1, '{"claim_wait": 0}', 'claim_wait must be an interval between 1 millisecond and 1 hour'),
    (2, '{"completed_retention": -1}', 'completed_retention must be an interval between 0 seconds and 100 years'),
    (3, '{"carry_max": -1}', 'carry_max must be a whole number between 0 and 10000000'),
    (4, '{"warn_failed_share": 2}', 'warn_failed_share must be a number between 0 and 1'),
    (5, '{"notifications": 1}', 'notifications must be true or false')
  ) m(n, settings, message)
 order by m.n;
select is(pg_temp.set_now(), (select settings from defaults), 'a refused call changes nothing');

-- Effects
select awa.configure('{"claim_bytes": 1}') \g /dev/null
select pg_temp.fill(pg_temp.q(), 3) \g /dev/null
select is((select count(*) from awa.claim(pg_temp.q(), 3)), 1::bigint, 'the next claim goes by it');

-- Of a queue's own retention and that of the installation, the shorter one holds.
select awa.configure_queue(:'queue', '{"completed_retention": "23 hours"}') \g /dev/null
create function pg_temp.retention() returns interval
language sql
return (select q.completed_retention from awa.list_queues() q where q.queue = pg_temp.q());
select awa.configure('{"completed_retention": "1 hour"}') \g /dev/null
select is(pg_temp.retention(), interval '1 hour',
  'a shorter retention of the installation is taken though a queue has a longer one, and holds for it');
select pg_temp.refused($$select awa.configure_queue(pg_temp.q(), '{"completed_retention": "2 hours"}')$$, '22023',
  'between 1 millisecond and 01:00:00', 'which can have no longer one from then on');
select is(pg_temp.outcome($$select awa.configure_queue(pg_temp.q(), '{"lease": 60}')$$), 'ok',
  'its other settings can be changed');
select awa.configure('{"completed_retention": null}') \g /dev/null
select is(pg_temp.retention(), interval '23 hours', 'it holds again when the installation''s is longer');

-- An IntervalStyle of the session's
set local intervalstyle = sql_standard;
select awa.configure('{"segment_age": "1 day 2:03:04",
  "completed_retention": "1 year 2 months 3 days 04:05:06"}') \g /dev/null
set local intervalstyle = iso_8601;
select awa.configure((select jsonb_object_agg(c.name, c.value) from awa.configuration() c)) \g /dev/null
set local intervalstyle = postgres;
select is((select row(s.segment_age, s.completed_retention)::text from awa.settings s),
  '("1 day 02:03:04","1 year 2 mons 3 days 04:05:06")',
  'intervals are read as they were meant, whatever the session''s IntervalStyle');

-- Where the row is missing
set local session_replication_role = replica;
delete from awa.settings;
set local session_replication_role = origin;
select pg_temp.refused($$select awa.configure('{"claim_wait": 1}')$$, '55000', 'awa.settings has lost its row',
  'it says how to bring back a row that is missing');

select * from finish();
rollback;
