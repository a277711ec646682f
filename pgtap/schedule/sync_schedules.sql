-- Without this, an old version of a program would bring back what the new one has removed, or two programs would remove
-- each other's schedules.
\set name sync_schedules
\ir ../prelude.psql

begin;
\ir clock.psql
select plan(98);

create function pg_temp.entry(name text, fields jsonb default '{}') returns jsonb
language sql
return jsonb_build_object('name', name, 'queue', pg_temp.q(), 'kind', 'k', 'cron', '@hourly') || fields;
-- Declares schedules; returns what there is of the source then.
create function pg_temp.declare(entries jsonb, revision bigint default null, source text default 'app') returns text
language plpgsql
as $$
declare
  v_answer boolean := awa.sync_schedules(source, entries, revision);
begin
  return v_answer || coalesce(': ' || (select string_agg(l.name, ' ' order by l.name)
    from awa.list_schedules() l where l.source = declare.source), '');
end
$$;
create function pg_temp.entries(variadic names text[]) returns jsonb
language sql
return (select jsonb_agg(pg_temp.entry(n)) from unnest(names) n);

select is(pg_temp.declare(pg_temp.entries('b', 'a'), 10), 'true: a b', 'a program declares its schedules');
select is(pg_temp.declare(pg_temp.entries('c'), null, 'other'), 'true: c', 'another one its own');
select awa.schedule('hand', pg_temp.q(), 'k', '@daily') \g /dev/null
select is(
  (select jsonb_object_agg(k, v) from pg_temp.listed('a') l, jsonb_each(to_jsonb(l)) e(k, v)
    where k in ('source', 'cron', 'every', 'args', 'timezone', 'missed', 'missed_for', 'overlap', 'changed_by')),
  jsonb_build_object('source', 'app', 'cron', '@hourly', 'every', null, 'args', '{}'::jsonb, 'timezone', 'UTC',
    'missed', 'latest', 'missed_for', interval '1 day', 'overlap', 'allow', 'changed_by', session_user),
  'what an entry leaves out has the defaults of schedule');
select is(pg_temp.declare(jsonb_build_array(pg_temp.entry('full', '{"cron": null, "every": "90 minutes",
    "args": {"a": [1]}, "timezone": "Europe/Berlin", "missed": "all", "missed_for": "2 days", "overlap": "wait",
    "starts_at": "2026-07-01T09:00:00+02:00", "ends_at": "2026-08-01T07:00:00Z", "priority": 1, "max_attempts": 3,
    "tags": ["t"], "metadata": {"m": 1}, "group_key": "g"}')), null, 'full'), 'true: full',
  'the fields are those of schedule');
select is((select row(l.every, l.args, l.timezone, l.missed, l.missed_for, l.overlap, l.starts_at, l.ends_at,
    l.priority, l.max_attempts, l.tags, l.metadata, l.group_key)::text from pg_temp.listed('full') l),
  '(01:30:00,"{""a"": [1]}",Europe/Berlin,all,"2 days",wait,"2026-07-01 07:00:00+00","2026-08-01 07:00:00+00",1,3,{t},'
  '"{""m"": 1}",g)', 'all of them');

-- Revisions
select is(pg_temp.declare(pg_temp.entries('a'), 9), 'false: a b', 'a lower revision changes nothing');
select is(pg_temp.declare('["bad"]', 9), 'false: a b', 'whatever it says');
select is(pg_temp.declare(pg_temp.entries('a', 'b'), 10), 'true: a b',
  'the same revision with the same content, in another order');
select pg_temp.refused($$select awa.sync_schedules('app', pg_temp.entries('a'), 10)$$, '22023', 'revision',
  'with other content it is refused');
select is(pg_temp.declare(pg_temp.entries('b', 'd'), 11), 'true: b d', 'a higher one removes, and adds');
select is((select s.last_tick is null and s.removed_at = awa._schedule_clock() from awa.schedules s where s.name = 'a'),
  true, 'what is removed is kept for a while');
select is(pg_temp.declare(pg_temp.entries('b', 'd', 'e')), 'true: b d e', 'without a revision it is always done');
select is(pg_temp.declare(pg_temp.entries('a'), 10), 'false: b d e', 'and the last revision stays');
select is(pg_temp.declare(pg_temp.entries('b', 'd'), 11), 'true: b d', 'which may come back, as it was');
select pg_temp.refused($$select awa.sync_schedules('app', pg_temp.entries('b', 'd', 'e'), 11)$$, '22023', 'revision',
  'and not otherwise');

-- Rows that stay
select pg_temp.fire_at('2026-06-01 13:00:00+00') \g /dev/null
create temp table before as select * from awa.schedules;
select pg_temp.at('2026-06-01 14:30:00+00') \g /dev/null
select is(pg_temp.declare(pg_temp.entries('b', 'd'), 13), 'true: b d', 'a deploy that changes nothing');
select is((select array_agg(s.name) from awa.schedules s join before b on b.name = s.name
  where s <> b and s.name in ('b', 'd')), null, 'writes nothing: what is due stays due');
select is(pg_temp.declare(jsonb_build_array(pg_temp.entry('b', '{"args": 1}'), pg_temp.entry('d',
  '{"cron": "@daily"}')), 14), 'true: b d', 'one that changes something');
select is((select row(l.args, l.next_at, l.last_at)::text from pg_temp.listed('b') l),
  '(1,"2026-06-01 14:00:00+00","2026-06-01 13:00:00+00")', 'keeps the time that is due');
select is((select row(l.next_at, l.last_at)::text from pg_temp.listed('d') l),
  '("2026-06-02 00:00:00+00","2026-06-01 13:00:00+00")', 'unless the expression is another one');
select is(pg_temp.declare(jsonb_build_array(pg_temp.entry('i', '{"cron": null, "every": "7 days"}')), 15), 'true: i',
  'an interval');
select pg_temp.at('2026-06-03 00:00:00+00') \g /dev/null
select is(pg_temp.declare(pg_temp.entries('b'), 16), 'true: b', 'that a deploy removes');
select pg_temp.at('2026-06-04 00:00:00+00') \g /dev/null
select is(pg_temp.declare(jsonb_build_array(pg_temp.entry('i', '{"cron": null, "every": "7 days"}')), 17), 'true: i',
  'and the next one brings back');
select is(pg_temp.next('i'), '08 14:30:00', 'counts from when it was first made');

-- Nothing but its own
select is(pg_temp.declare('[]', 18), 'true', 'an empty declaration removes all');
select is((select string_agg(l.name, ' ' order by l.name) from awa.list_schedules() l
  where l.name in ('a', 'b', 'c', 'd', 'e', 'full', 'hand', 'i')), 'c full hand', 'of this source, and nothing else');
select pg_temp.refused(format('select awa.sync_schedules(%L, %L, %s)', 'app', c.entries, 19), '22023', c.names,
  c.description)
  from (values
    (1, pg_temp.entries('c'), 'schedules: name', 'a name of another source'),
    (2, pg_temp.entries('hand'), 'schedules: name', 'one that was made by hand'),
    (3, '{}', 'schedules must', 'no array'),
    (4, 'null', 'schedules must', 'nothing'),
    (5, '[1]', 'schedules: each', 'no object'),
    (6, pg_temp.entries('x', 'y', 'x'), 'schedules: name', 'a name that stands there twice'),
    (7, jsonb_build_array(pg_temp.entry('x', '{"crn": "@daily"}')), 'schedules: there is no field crn', 'no field'),
    (8, jsonb_build_array(pg_temp.entry('x', '{"source": "a"}')), 'schedules: there is no field source', 'the source'),
    (9, jsonb_build_array(pg_temp.entry('x', '{"cron": "@daly"}')), 'schedules: cron', 'an expression'),
    (10, jsonb_build_array(pg_temp.entry('x', '{"cron": 5}')), 'schedules: cron', 'a number for one'),
    (11, jsonb_build_array(pg_temp.entry('x', '{"every": "1 day"}')), 'schedules: cron or every', 'both'),
    (12, jsonb_build_array(pg_temp.entry('x', '{"cron": null, "every": "often"}')), 'schedules: every', 'an interval'),
    (13, jsonb_build_array(pg_temp.entry('x', '{"missed_for": "long"}')), 'schedules: missed_for', 'another one'),
    (14, jsonb_build_array(pg_temp.entry('x', '{"starts_at": "soon"}')), 'schedules: starts_at', 'a time'),
    (15, jsonb_build_array(pg_temp.entry('x', '{"ends_at": "2026-07-01"}')), 'schedules: ends_at', 'a time of no zone'),
    (16, jsonb_build_array(pg_temp.entry('x', '{"priority": 1.5}')), 'schedules: priority', 'a fraction'),
    (17, jsonb_build_array(pg_temp.entry('x', '{"priority": 9}')), 'schedules: priority', 'a priority'),
    (18, jsonb_build_array(pg_temp.entry('x', '{"max_attempts": "3"}')), 'schedules: max_attempts', 'a text'),
    (19, jsonb_build_array(pg_temp.entry('x', '{"tags": "t"}')), 'schedules: tags', 'a text for tags'),
    (20, jsonb_build_array(pg_temp.entry('x', '{"tags": [1]}')), 'schedules: tags', 'numbers for tags'),
    (21, jsonb_build_array(pg_temp.entry('x', '{"metadata": []}')), 'schedules: metadata', 'metadata'),
    (22, jsonb_build_array(pg_temp.entry('x', '{"timezone": "Mars"}')), 'schedules: timezone', 'a zone'),
    (23, jsonb_build_array(pg_temp.entry('x', '{"overlap": "x"}')), 'schedules: overlap', 'an overlap'),
    (24, jsonb_build_array(pg_temp.entry('x', '{"queue": null}')), 'schedules: queue', 'no queue'),
    (25, jsonb_build_array(pg_temp.entry(null)), 'schedules: name', 'no name')
  ) c(n, entries, names, description) order by c.n;
select is((select string_agg(l.name, ' ' order by l.name) from awa.list_schedules() l
  where l.name in ('a', 'b', 'c', 'd', 'e', 'full', 'hand', 'i', 'x', 'y')), 'c full hand', 'nothing has changed');
create function pg_temp.detail(entries jsonb) returns text
language plpgsql
as $$
declare
  v_detail text;
begin
  perform awa.sync_schedules('app', entries);
  return null;
exception when others then
  get stacked diagnostics v_detail = pg_exception_detail;
  return v_detail;
end
$$;
select is(pg_temp.detail(pg_temp.entries('x', 'y') || jsonb_build_array(pg_temp.entry('w', '{"missed": "x"}'))),
  'Element 3 (w): Got x.', 'a bad entry is named, by its place and its name');
select is(pg_temp.detail('[7]'), 'Element 1: Got number.', 'one without a name by its place');
select is(pg_temp.detail(pg_temp.entries('x', 'c')), 'Element 2 (c): Got c, of source other.',
  'and so is one that belongs to another source');
select pg_temp.refused(format('select awa.sync_schedules(%s)', c.call), '22023', c.names, c.description)
  from (values (1, 'null, ''[]''', 'source', 'no source'), (2, ''''', ''[]''', 'source', 'an empty source'),
    (3, '''app'', null', 'schedules', 'no schedules'),
    (4, '''app'', (select jsonb_agg(n) from generate_series(1, 10001) n)', 'schedules', 'too many'))
    c(n, call, names, description) order by c.n;

-- Who may: sessions of other logins are in TestWhoSynchronises
select is((select s.owner from awa.schedule_sources s where s.source = 'app'), null,
  'an operator does not own what it declares');
create role pgtap_sync_team;
set local role pgtap_sync_team;
select is(pg_temp.outcome('select awa.sync_schedules(''team'', ''[]'')'), '42501',
  'the role needs the right to call it');
reset role;
grant awa_worker to pgtap_sync_team;
grant usage on schema awa to pgtap_sync_team;
set local role pgtap_sync_team;
select awa.sync_schedules('team', '[]') \g /dev/null
reset role;
select is((select s.owner from awa.schedule_sources s where s.source = 'team'), 'pgtap_sync_team',
  'a role that the session has set owns it');
select is(awa.sync_schedules('team', '[]'), true, 'an operator declares all');
select is((select s.owner from awa.schedule_sources s where s.source = 'team'), 'pgtap_sync_team',
  'and leaves it to its owner');
alter role pgtap_sync_team rename to pgtap_sync_crew;
create role pgtap_sync_team in role awa_worker;
set local role pgtap_sync_crew;
select awa.sync_schedules('team', '[]') \g /dev/null
reset role;
select is((select s.owner from awa.schedule_sources s where s.source = 'team'), 'pgtap_sync_crew',
  'a role that was renamed owns it, and none that has its name by now');
revoke all on schema awa from pgtap_sync_crew;
drop role pgtap_sync_crew;
select awa.sync_schedules('team', '[]') \g /dev/null
select is((select row(s.owner, s.owner_id)::text from awa.schedule_sources s where s.source = 'team'), '(,)',
  'when it is gone, nobody owns it');
grant usage on schema awa to pgtap_sync_team;
set local role pgtap_sync_team;
select awa.sync_schedules('team', '[]') \g /dev/null
reset role;
select is((select s.owner from awa.schedule_sources s where s.source = 'team'), 'pgtap_sync_team',
  'but the next one to declare it');

-- What is declared again as it was is not checked again
select pg_temp.declare(jsonb_build_array(pg_temp.entry('bare'), pg_temp.entry('whole', '{"cron": null,
  "every": "90 minutes", "args": {"a": 1}, "timezone": "Europe/Berlin", "missed": "all", "missed_for": "2 days",
  "overlap": "skip", "starts_at": "2026-07-01T00:00:00Z", "ends_at": "2027-07-01T00:00:00Z", "priority": 1,
  "max_attempts": 3, "tags": ["t"], "metadata": {"m": 1}, "group_key": "g"}')), null, 'same') \g /dev/null
create function pg_temp.is_declared(name text, fields jsonb default '{}') returns boolean
language sql
as $$
  select awa._is_declared('same', e.entry || fields)
    from (select pg_temp.entry('bare') as entry, 'bare' as name
          union all
          select to_jsonb(s) - '{source,cron_bits,made_at,changed_at,changed_by,decided_until,next_tick,next_wall,'
                   'next_at,ran,unsure,times_missed,times_skipped,failures,paused_at,paused_by,pause_reason,removed_at,'
                   'last_tick,last_job_id,waiting_tick,error,failed_at}'::text[], s.name
            from awa.schedules s where s.name = 'whole') e
   where e.name = is_declared.name
$$;
select ok(pg_temp.is_declared(n), n) from unnest('{bare,whole}'::text[]) n;
select is(pg_temp.is_declared(c.name, c.fields), c.expected, format('%s with %s', c.name, c.fields))
  from (values
    ('bare', '{"timezone": null, "missed": "latest", "missed_for": "24:00:00", "tags": null}'::jsonb, false),
    ('bare', '{"timezone": null, "missed": "latest", "missed_for": "1 days", "tags": null}', true),
    ('whole', '{"every": "5400 seconds", "starts_at": "2026-07-01T02:00:00+02:00"}', true),
    ('whole', '{"every": "5401 seconds"}', false), ('whole', '{"every": 5400}', false),
    ('bare', '{"queue": "other"}', false), ('bare', '{"kind": "other"}', false), ('bare', '{"cron": "@daily"}', false),
    ('bare', '{"other": 1}', false), ('bare', '{"name": "none"}', false), ('whole', '{"args": {"a": 1.0}}', false),
    ('whole', '{"args": null}', false), ('whole', '{"timezone": "UTC"}', false), ('whole', '{"missed": "skip"}', false),
    ('whole', '{"missed_for": "3 days"}', false), ('whole', '{"overlap": "wait"}', false),
    ('whole', '{"starts_at": null}', false), ('whole', '{"ends_at": "2027-07-01T00:00:01Z"}', false),
    ('whole', '{"priority": 2}', false), ('whole', '{"priority": "1"}', false),
    ('whole', '{"max_attempts": null}', false),
    ('whole', '{"tags": ["t", "u"]}', false), ('whole', '{"metadata": {"m": 2}}', false),
    ('whole', '{"group_key": "h"}', false)
  ) c(name, fields, expected);
select is(awa._is_declared('app', pg_temp.entry('bare')), false, 'of another source');
select is(awa._is_declared('app', '5'), false, 'what is no object');
select pg_temp.refused($$select pg_temp.declare(pg_temp.entries('bare', 'bare'), null, 'same')$$, '22023', 'twice',
  'a name that stands there twice, as it was declared before');
select awa.unschedule('bare') \g /dev/null
select is(pg_temp.declare(pg_temp.entries('bare'), null, 'same'), 'true: bare', 'one that was removed is made anew');

-- A tick that waits, and one that is due, when it is removed
create function pg_temp.waiter(schedules text) returns boolean
language sql
as $$ select awa.sync_schedules('waiter', schedules::jsonb) $$;
select pg_temp.at('2026-07-01 12:00:30+00') \g /dev/null
\set waits '[{"name": "waits", "queue": "q", "kind": "k", "cron": "* * * * *", "overlap": "wait"}]'
select pg_temp.waiter(:'waits'),
       awa.trigger_schedule('waits') \g /dev/null
select pg_temp.fire_at('2026-07-01 12:01:01+00'), pg_temp.at('2026-07-01 12:02:01+00') \g /dev/null
select pg_temp.waiter('[]'), pg_temp.waiter(:'waits') \g /dev/null
select is((select row(l.times_skipped, l.times_missed, l.waiting_at)::text from pg_temp.listed('waits') l), '(1,1,)',
  'what was due, or waited, when it was removed, counts as left out');

select * from finish();
rollback;
