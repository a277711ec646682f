-- Without this, a new report could not be made for last year, or a second try would make it twice.
\set name backfill_schedule
\ir ../prelude.psql

begin;
\ir clock.psql
select plan(55);

-- The hint of the error that a statement raises.
create function pg_temp.hint(statement text) returns text
language plpgsql
as $$
declare
  v_hint text;
begin
  execute statement;
  return null;
exception when others then
  get stacked diagnostics v_hint = pg_exception_hint;
  return v_hint;
end
$$;

select awa.schedule('s', pg_temp.q(), 'k', '0 * * * *') \g /dev/null
select pg_temp.fire_at('2026-06-01 13:00:01+00'), pg_temp.fire_at('2026-06-01 14:00:01+00') \g /dev/null
select pg_temp.at('2026-06-01 14:30:00+00') \g /dev/null
select is((select count(*) from awa.backfill_schedule(name => 's', "from" => '2026-06-01 10:00+00',
  "to" => '2026-06-01 14:30+00')), 3::bigint, 'a job for each time that has not run');
select is(pg_temp.times('s'), '01 13:00, 01 14:00, 01 10:00, 01 11:00, 01 12:00', 'from the first time on');
select is((select count(*) from awa.backfill_schedule('s', '2026-06-01 10:00+00', '2026-06-01 14:30+00')), 0::bigint,
  'each time once');
select is((select count(*) from awa.backfill_schedule('s', '2026-06-01 09:00+00', '2026-06-01 10:00+00')), 1::bigint,
  'up to, but without, the last one');
select is((select count(*) from awa.backfill_schedule('s', '2026-06-01 10:00+00', '2026-06-01 12:00+00',
  repeat => true)), 2::bigint, 'with repeat also those that ran');
select is((select row(l.next_at, l.last_at)::text from pg_temp.listed('s') l),
  '("2026-06-01 15:00:00+00","2026-06-01 14:00:00+00")', 'the ticks go on as before');
select pg_temp.refused($$select awa.backfill_schedule('s', '2026-06-01 10:00+00', '2026-06-01 14:30+00', 3, true)$$,
  '22023', 'max_jobs', 'not more than max_jobs, since the next call would begin anew');
select is(pg_temp.hint($$select awa.backfill_schedule('s', '2026-06-01 10:00+00', '2026-06-01 14:30+00', 3, true)$$),
  'Pass smaller ranges, one after the other: so many times lie before 2026-06-01 13:00:00+00; pass this as to, and as '
  'the next from.', 'and says which ranges it takes');
select is(pg_temp.times('s'), '01 13:00, 01 14:00, 01 10:00, 01 11:00, 01 12:00, 01 09:00, 01 10:00, 01 11:00',
  'nothing was enqueued then');
select is((select count(*) from awa.backfill_schedule('s', '2026-06-01 10:00+00', '2026-06-01 13:00+00', 3, true)),
  3::bigint, 'as many as max_jobs');
select is((select s.ran from awa.schedules s where s.name = 's'),
  '{["2026-06-01 09:00:00+00","2026-06-01 09:00:00+00"],["2026-06-01 10:00:00+00","2026-06-01 14:00:00+00"]}',
  'it is known what ran');

-- In parts
select is((select count(*) from awa.backfill_schedule('s', '2026-05-01 00:00+00', '2026-05-02 00:00+00', 10)),
  10::bigint, 'as many as are asked for');
select is((select count(*) from awa.backfill_schedule('s', '2026-05-01 00:00+00', '2026-05-02 00:00+00', 10)),
  10::bigint, 'the next ones with the next call');
select is((select count(*) from awa.backfill_schedule('s', '2026-05-01 00:00+00', '2026-05-02 00:00+00', 10)),
  4::bigint, 'until there is none');
select is((select count(*) from awa.backfill_schedule('s', '2026-05-01 00:00+00', '2026-05-02 00:00+00', null, null)),
  0::bigint, 'null means the default');
select is((select count(*) from awa.backfill_schedule('s', '2026-05-01 00:00+00', '2026-05-01 00:00+00')), 0::bigint,
  'from a time to itself there is none');

-- A time that is due, and has not fired yet
select pg_temp.at('2026-06-01 15:00:01+00') \g /dev/null
select is((select count(*) from awa.backfill_schedule('s', '2026-06-01 15:00+00', '2026-06-01 15:00:01+00')), 1::bigint,
  'a time that is due');
select is(pg_temp.fire(), '', 'does not fire again');
select is(pg_temp.next('s'), '01 16:00:00', 'the next one does');

-- Ticks that were left out
select awa.schedule('k', pg_temp.q(), 'k', '0 * * * *', missed => 'skip') \g /dev/null
select awa.pause_schedule('s') \g /dev/null
select is(pg_temp.fire_at('2026-06-01 18:30:00+00'), 'missed 3', 'times that were missed');
select is((select count(*) from awa.backfill_schedule('k', '2026-06-01 15:30+00', '2026-06-01 18:30+00')), 3::bigint,
  'are made up for');
select awa.schedule('p', pg_temp.q(), 'k', '0 * * * *') \g /dev/null
select awa.pause_schedule('p') \g /dev/null
select pg_temp.at('2026-06-01 20:30:00+00') \g /dev/null
select is((select count(*) from awa.backfill_schedule('p', '2026-06-01 18:30+00', '2026-06-01 20:30+00')), 2::bigint,
  'and so is a pause');
select isnt((select l.paused_at from pg_temp.listed('p') l), null, 'which goes on');

-- An interval
select awa.schedule('e', pg_temp.q(), 'k', every => '1 hour') \g /dev/null
select pg_temp.at('2026-06-01 22:45:00+00') \g /dev/null
select is((select count(*) from awa.backfill_schedule('e', '2026-06-01 00:00+00', '2026-06-01 22:45+00')), 2::bigint,
  'an interval has no time before the first one');
select is(pg_temp.times('e'), '01 21:30, 01 22:30', 'which is one interval after it was made');

-- More than 100 gaps: of the oldest ones it is not known any more which times ran
create function pg_temp.unsure(schedule text) returns text
language sql
as $$
  select case when isempty(s.unsure) then 'sure' else
           to_char(lower(s.unsure), 'DD HH24:MI') || ' to ' || to_char(upper(s.unsure), 'DD HH24:MI') end
    from awa.schedules s where s.name = schedule
$$;
create function pg_temp.backfill("from" timestamptz, "to" timestamptz, repeat boolean default false) returns text
language plpgsql
as $$
begin
  return (select count(*) from awa.backfill_schedule('g', "from", "to", repeat => repeat));
exception when invalid_parameter_value then
  return sqlerrm;
end
$$;
select awa.schedule('g', pg_temp.q(), 'k', '0 * * * *') \g /dev/null
update awa.schedules s
   set ran = (select range_agg(tstzrange(t, t, '[]'))
     from generate_series(timestamptz '2026-01-01 00:00+00', '2026-01-09 06:00+00', '2 hours') t)
 where s.name = 'g';
select is(pg_temp.backfill('2026-02-01 00:00+00', '2026-02-01 00:30+00'), '1', 'a gap more than 100');
select is((select count(*) || ', ' || pg_temp.unsure('g') from awa.schedules s, unnest(s.ran) where s.name = 'g'),
  '100, 01 00:00 to 01 02:00', 'the oldest times are put together');
select is(pg_temp.backfill('2026-02-03 00:00+00', '2026-02-03 00:30+00') || ', ' || pg_temp.unsure('g'),
  '1, 01 00:00 to 01 04:00', 'and the next ones');
select matches(pg_temp.backfill('2026-01-01 00:00+00', '2026-01-01 05:30+00'), '^from and to must leave out',
  'times that may not have run are not taken for times that ran: they are refused');
select is(pg_temp.backfill('2025-12-31 22:00+00', '2026-01-01 01:00+00'), '2', 'none of them, and none that ran');
select is(pg_temp.backfill('2026-01-01 04:00+00', '2026-01-01 07:30+00'), '2', 'from then on what has not run');
select is(pg_temp.backfill('2026-01-01 00:00+00', '2026-01-01 02:30+00', true) || ', ' || pg_temp.unsure('g'),
  '3, 01 02:00 to 01 04:00', 'with repeat all of them, which have run then');
select is(pg_temp.backfill('2026-01-01 03:00+00', '2026-01-01 03:30+00', true) || ', ' || pg_temp.unsure('g'),
  '1, 01 02:00 to 01 04:00', 'each one');
select is(pg_temp.backfill('2026-01-01 02:00+00', '2026-01-01 04:30+00', true) || ', ' || pg_temp.unsure('g'),
  '3, sure', 'until it is known again');
select is(pg_temp.backfill('2026-01-01 00:00+00', '2026-01-01 07:30+00'), '0', 'and each time has run once');
select is((select string_agg(pg_temp.backfill(t, t + interval '1 hour'), '')
  from generate_series(timestamptz '2025-01-01 00:00+00', '2025-01-07 00:00+00', '2 hours') t), repeat('1', 73),
  'many gaps that are older');
select is((select count(*) || ', ' || pg_temp.unsure('g') from awa.schedules s, unnest(s.ran) where s.name = 'g'),
  '100, 01 07:00 to 07 06:00', 'shorten what is known of the others, as little as can be');
select is(pg_temp.backfill('2025-01-01 00:00+00', '2025-01-01 05:30+00'), '3', 'the other ones are known');

-- Another expression
select awa.schedule('g', pg_temp.q(), 'k', '30 * * * *') \g /dev/null
select matches(pg_temp.backfill('2026-01-01 00:00+00', '2026-01-01 05:30+00'), '^from and to must leave out',
  'times of another expression that lie where all of the other one have run');
select is(pg_temp.backfill('2024-12-31 00:00+00', '2025-01-01 00:00+00'), '24', 'before that none has run');
select awa.schedule('g', pg_temp.q(), 'k', '30 * * * *', missed => 'all') \g /dev/null
select is(pg_temp.backfill('2024-12-31 00:00+00', '2025-01-01 00:00+00'), '0', 'another change leaves it so');

select pg_temp.refused(format('select awa.backfill_schedule(%s)', c.call), c.state, c.names, c.description)
  from (values
    (1, '''s'', null, ''2026-01-01''', '22023', 'from', 'no beginning'),
    (2, '''s'', ''2026-01-01'', null', '22023', 'to', 'no end'),
    (3, '''s'', ''2026-01-02'', ''2026-01-01''', '22023', 'to', 'an end before the beginning'),
    (4, '''s'', ''2026-01-02'', ''2026-12-01''', '22023', 'to', 'an end that lies ahead'),
    (5, '''s'', ''-infinity'', ''2026-01-01''', '22023', 'from', 'all of the past'),
    (6, '''s'', ''2026-01-02'', ''infinity''', '22023', 'to', 'all of the future'),
    (7, '''s'', ''2026-01-01'', ''2026-01-02'', 0', '22023', 'max_jobs', 'no jobs'),
    (8, '''s'', ''2026-01-01'', ''2026-01-02'', 10001', '22023', 'max_jobs', 'too many'),
    (9, '''none'', ''2026-01-01'', ''2026-01-02''', 'JQ007', 'no such schedule', 'an unknown one')
  ) c(n, call, state, names, description) order by c.n;

select matches(pg_temp.hint(format('select awa.backfill_schedule(''s'', ''2026-01-02'', %L)', h.until)), h.hint, h.hint)
  from (values (1, '2026-01-01', '^Pass the time before which'), (2, '2026-12-01', '^Times that are ahead'))
       h(n, until, hint)
 order by h.n;

-- Into a queue with a limit
select awa.schedule('deep', pg_temp.q(' deep'), 'k', '30 * * * *') \g /dev/null
select awa.configure_queue(pg_temp.q(' deep'), '{"max_depth": 2}') \g /dev/null
select is((select count(*) from awa.backfill_schedule('deep', '2025-01-01 00:00+00', '2025-01-01 05:00+00')), 5::bigint,
  'max_depth of its queue takes a call as a whole');
select is(
  pg_temp.outcome('select awa.backfill_schedule($$deep$$, $$2025-01-02 00:00+00$$, $$2025-01-02 05:00+00$$)'), 'JQ006',
  'or refuses it');
select pg_temp.agrees('the books balance');

select * from finish();
rollback;
