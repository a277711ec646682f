-- Without this, a misspelled expression would be taken for another one, and a job would run at times that nobody meant.
\set name cron
\ir ../prelude.psql

-- The bits of a field, as a list.
create function pg_temp.values_of(bits bigint) returns text
language sql
return (select string_agg(v::text, ' ' order by v) from generate_series(0, 62) v where bits >> v & 1 = 1);

-- One test: an expression is refused; the message names the field and what is wrong, the hint says what to write.
create function pg_temp.refused_cron(cron text, field text, hint text) returns text
language plpgsql
as $$
declare
  v_message text := 'accepted';
  v_hint text;
  v_detail text;
  v_state text;
begin
  begin
    perform awa._parse_cron(cron);
  exception when others then
    get stacked diagnostics v_state = returned_sqlstate, v_message = message_text, v_detail = pg_exception_detail,
      v_hint = pg_exception_hint;
  end;
  return is(concat_ws(' ', v_state, case when not starts_with(v_message, field) then v_message end,
    case when strpos(v_hint, hint) = 0 then v_hint end,
      case when v_detail <> format('Got %s.',
        coalesce(left(nullif(cron, ''), 200), case cron when '' then 'an empty text' else 'null' end))
        then v_detail end), '22023',
    format('%s: %s', left(coalesce(cron, 'null'), 60), field));
end
$$;

begin;
select plan(163);

-- Fields
create temp table fields (n int generated always as identity, field int, value text, bits text);
insert into fields (field, value, bits) values
  (2, '5', '5'), (2, '05', '5'), (2, '0', '0'), (2, '59', '59'), (2, '1,3,5', '1 3 5'), (2, '10-13', '10 11 12 13'),
    (2, '10-20/5', '10 15 20'), (2, '50/3', '50 53 56 59'),
  (2, '*/20', '0 20 40'), (2, '*/7', '0 7 14 21 28 35 42 49 56'), (2, '1-2,2-3,40-50/10', '1 2 3 40 50'),
    (2, '*/59', '0 59'), (2, '*,5', pg_temp.values_of((1::bigint << 60) - 1)), (2, '8-10/5', '8'),
  (1, '*', pg_temp.values_of((1::bigint << 60) - 1)), (3, '*', pg_temp.values_of((1 << 24) - 1)),
    (3, '0-23', pg_temp.values_of((1 << 24) - 1)), (3, '23', '23'), (3, '*/6', '0 6 12 18'),
  (4, '*', pg_temp.values_of((1::bigint << 32) - 2)), (4, '*/10', '1 11 21 31'), (4, '31', '31'), (4, 'L', '0'),
    (4, 'LW', '62'), (4, '1W', '32'), (4, '15W,L,3', '0 3 46'), (4, '31W', '62'),
  (5, '*', '1 2 3 4 5 6 7 8 9 10 11 12'), (5, 'JAN', '1'), (5, 'DEC', '12'), (5, 'MAR-MAY', '3 4 5'),
    (5, 'JAN,7', '1 7'), (5, '*/6', '1 7'), (5, '2/5', '2 7 12'),
  (6, '*', '0 1 2 3 4 5 6'), (6, '0', '0'), (6, '7', '0'), (6, 'SUN', '0'), (6, 'SAT', '6'),
    (6, 'MON-FRI', '1 2 3 4 5'), (6, '5-7', '0 5 6'), (6, 'SUN-TUE', '0 1 2'), (6, '0-7', '0 1 2 3 4 5 6'),
    (6, '*/2', '0 2 4 6'),
  (6, '1/3', '0 1 4'), (6, '5L', '47'), (6, 'FRIL', '47'), (6, '7L', '42'), (6, '1#1', '8'), (6, 'MON#1', '8'),
    (6, '7#5', '35'), (6, '5#2,1', '1 19');
select is(pg_temp.values_of(awa._cron_field('', f.field, f.value)), f.bits, format('field %s: %s', f.field, f.value))
  from fields f order by f.n;

-- Expressions
select is(awa._parse_cron(e.cron)::text, awa._parse_cron(e.means)::text,
  format('%s is %s', regexp_replace(e.cron, E'[\t\r\n]', ' ', 'g'), e.means))
  from (values (1, '@yearly', '0 0 1 1 *'), (2, '@annually', '0 0 1 1 *'), (3, '@monthly', '0 0 1 * *'),
      (4, '@weekly', '0 0 * * 0'), (5, '@daily', '0 0 * * *'), (6, '@midnight', '0 0 * * *'),
      (7, '@hourly', '0 * * * *'),
    (8, '@Daily', '0 0 * * *'), (9, '30 9 * * mon-Fri', '30 9 * * 1-5'), (10, E'30\t9  *\t * *\n', '30 9 * * *'),
      (11, '0 30 9 * * *', '30 9 * * *'), (12, E'\r\n@hourly \n', '0 * * * *'), (13, '0 0 lw jan *', '0 0 LW 1 *')) e(n,
      cron, means) order by e.n;
select is(concat_ws(' ', case when c.needs_both then 'both' else 'either' end,
  case when c.by_wall then 'wall' else 'time' end), e.rules, e.cron || ': ' || e.rules)
  from (values (1, '0 0 13 * 5', 'either time'), (2, '0 0 13 * *', 'both time'), (3, '0 0 * * 5', 'both time'),
      (4, '0 0 */2 * 5', 'both time'), (5, '0 0 13 * */2', 'both time'), (6, '0 0 L * 5#1', 'either time'),
    (7, '0 0 15W * 5L', 'either time'), (8, '0 0 15W * */2', 'both time'), (9, '0 0 1-31 * 5', 'either time'),
      (10, '0 * * * *', 'both wall'), (11, '*/15 2 * * *', 'both wall'), (12, '0 */2 * * *', 'both wall'),
      (13, '0-59 0-23 * * *', 'both time'),
    (14, '*,5 2 * * *', 'both wall'), (15, '* 30 2 * * *', 'both time')) e(n, cron, rules)
      cross join lateral awa._parse_cron(e.cron) c order by e.n;

select is(awa._cron_bits('00000 * * * *'), awa._cron_bits('0 * * * *'), 'zeros before a number are fine');

-- Refusals
select pg_temp.refused_cron(r.cron, r.field, r.hint)
  from (values
    (1, null, 'cron must have five fields', 'minute, hour, day of month'),
      (2, '', 'cron must have five fields', 'minute, hour'), (3, ' ', 'cron must have five fields', 'minute, hour'),
      (4, '* * * *', 'cron must have five fields', 'minute, hour'),
    (5, '0 0 9 * * * 2026', 'cron must have five fields', 'years'),
      (6, '@reboot', 'cron has an unknown name', 'program starts'),
      (7, '@every 5m', 'cron has an unknown name', 'every =>'),
      (8, '@fortnightly', 'cron has an unknown name', '@weekly'),
    (9, '@hourly 5', 'cron has an unknown name', 'nothing else'),
      (10, 'CRON_TZ=Europe/Berlin 0 9 * * *', 'cron must not begin with a setting', 'timezone'),
      (11, 'TZ=UTC 0 9 * * *', 'cron must not begin with a setting', 'timezone'),
    (12, '0 9 * * * Europe/Berlin', 'cron, day of week: ', 'timezone'),
      (13, '0 9 31 * * UTC', 'cron, day of week: ', 'timezone'),
      (14, '0 9 25 12 * 2026', 'cron, day of week: 2026 is not', 'Years'),
      (15, '? * * * *', 'cron, minute: ', 'Write * instead'),
    (16, '0 0 ? * MON', 'cron, day of month: ', 'Write * instead'), (17, 'H * * * *', 'cron, minute: ', 'H, which'),
      (18, 'H/15 * * * *', 'cron, minute: ', 'H, which'), (19, '0 H(0-7) * * *', 'cron, hour: ', 'H, which'),
    (20, 'R * * * *', 'cron, minute: ', 'random'), (21, '0~30 * * * *', 'cron, minute: ', 'random'),
      (22, '0 0 * * FRI-MON', 'cron, day of week: the range FRI-MON', 'Write 5-7,1 '),
      (23, '0 0 * * FRI-SUN', 'cron, day of week: the range', 'Write 5-7 '),
    (24, '0 22-2 * * *', 'cron, hour: the range', '22-23,0-2'),
      (25, '0 0 * NOV-FEB *', 'cron, month: the range', '11-12,1-2'),
      (26, '*/0 * * * *', 'cron, minute: a step of 0', 'Write * '),
      (27, '5-10/00 * * * *', 'cron, minute: a step of 0', 'Write 5-10 '),
    (28, '*/90 * * * *', 'cron, minute: the step 90', 'every'),
      (29, '0 */24 * * *', 'cron, hour: the step 24', 'each day'),
      (30, '0 0 * * */7', 'cron, day of week: the step 7', 'each week'),
      (31, '0 0 */31 * *', 'cron, day of month: the step', 'each month'),
    (32, '0-59/99999999999 * * * *', 'cron, minute: the step', 'every'),
      (33, '60 * * * *', 'cron, minute: 60 is not', '0 to 59'),
      (34, '60 0 * * * *', 'cron, second: 60 is not', '0 to 59'),
      (35, '0 24 * * *', 'cron, hour: 24 is not', 'Midnight'),
    (36, '0 0 0 * *', 'cron, day of month: 0 is not', '1 to 31'),
      (37, '0 0 32 * *', 'cron, day of month: 32 is not', '1 to 31'), (38, '0 0 * 0 *', 'cron, month: 0 is not', 'JAN'),
      (39, '0 0 * 13 *', 'cron, month: 13', 'JAN'), (40, '0 0 * * 8', 'cron, day of week: 8', '7 are Sunday'),
    (410, '99999 * * * *', 'cron, minute: 99999 is not in', '0 to 59'),
      (411, '0 0 * * * +02:00', 'cron, day of week: can', 'Pass the zone as timezone'),
      (412, '1 2 3 4 5 6 7', 'cron must have five', 'These are 7 fields'),
    (41, '99999999999999999999 * * * *', 'cron, minute: ', '0 to 59'), (42, '-5 * * * *', 'cron, minute: ', '0 to 59'),
      (43, '1.5 * * * *', 'cron, minute: ', '0 to 59'), (44, '1, * * * *', 'cron, minute: a part is empty', 'comma'),
      (45, ',1 * * * *', 'cron, minute: a part', 'comma'),
    (46, '*-5 * * * *', 'cron, minute: ', '0 to 59'), (47, '*/ * * * *', 'cron, minute: ', '0 to 59'),
      (48, '1-5- * * * *', 'cron, minute: ', '0 to 59'), (49, 'MON * * * *', 'cron, minute: ', '0 to 59'),
      (50, '0 0 * * MONDAY', 'cron, day of week: ', 'three letters'),
    (51, '0 0 * JANUARY *', 'cron, month: ', 'three letters'), (52, '0 0 * XYZ *', 'cron, month: ', 'JAN'),
      (53, '0 0 L-3 * *', 'cron, day of month: ', 'counted back'), (54, '0 0 W * *', 'cron, day of month: ', '15W'),
      (55, '0 0 1-15W * *', 'cron, day of month: ', '15W'),
    (56, '0 0 32W * *', 'cron, day of month: 32', '15W'), (57, '0 0 15W/2 * *', 'cron, day of month: ', '15W'),
      (58, '0 0 L/2 * *', 'cron, day of month: ', 'LW for the last'), (59, '0 0 * * L', 'cron, day of week: ', '5L'),
      (60, '0 0 * * 5#6', 'cron, day of week: 6 is not', '5#2'),
    (61, '0 0 * * 5#0', 'cron, day of week: 0 is not', '5#2'), (62, '0 0 * * 8#1', 'cron, day of week: 8', '5#2'),
      (63, '0 0 * * MON-FRI#1', 'cron, day of week: ', '5#2'), (64, '0 0 * * 5L/2', 'cron, day of week: ', '5L'),
      (65, 'L * * * *', 'cron, minute: ', 'day fields only'),
    (66, '0 0 * * 15W', 'cron, day of week: ', 'day fields only'),
      (67, 'every 5 minutes', 'cron must have five fields', 'minute, hour'),
      (68, 'ä * * * *', 'cron, minute: ', '0 to 59'),
      (69, repeat('1,', 500) || '1 * * * *', 'cron must be at most 1000', 'ranges'),
    (70, '0 0 30 2 *', 'cron, day of month: no such day', 'no such day'),
      (71, '0 0 31 4,6,9,11 *', 'cron, day of month: no such day', 'no such day'),
      (72, '0 0 30 2 */2', 'cron, day of month: no such day', 'both'),
      (73, '0 0 */30 * 1#2', 'cron, day of month: no such day', 'both')
  ) r(n, cron, field, hint) order by r.n;

-- Expressions that seldom fire
select is(pg_temp.outcome(format('select awa._parse_cron(%L)', c)), 'ok', c || ' comes')
  from unnest('{0 0 29 2 *,0 0 30 2 1,0 0 31W 2 *,0 0 */28 2 0#5,"0 0 31 1,4 *"}'::text[]) with ordinality u(c, n)
  order by n;

-- Which days of which months: against what a calendar says, for each month of 28 years
select is((select array_agg(distinct d.day::date) from (
    select d.day, m.days >> extract(day from d.day)::int & 1 = 1 as comes,
           case c.n
             when 1 then d.day = m.first + interval '1 month' - interval '1 day'
             when 2 then extract(isodow from d.day) < 6
               and not exists (select
               from generate_series(d.day + interval '1 day', m.first + interval '1 month' - interval '1 day',
               '1 day') l where extract(isodow from l) < 6)
             when 3 then extract(dow from d.day) = 5 and d.day + interval '7 days' >= m.first + interval '1 month'
             when 4 then extract(dow from d.day) = 1 and extract(day from d.day) between 8 and 14
             when 5 then extract(dow from d.day) = 0 and extract(day from d.day) > 28
             when 6 then extract(isodow from d.day) < 6
               and (extract(day from d.day) = 15 or extract(day from d.day) = 14 and extract(dow from d.day) = 5
               or extract(day from d.day) = 16 and extract(dow from d.day) = 1)
             when 7 then extract(isodow from d.day) < 6
               and (extract(day from d.day) = 1 or extract(day from d.day) in (2, 3) and extract(dow from d.day) = 1)
             when 8 then extract(day from d.day) = 13 or extract(dow from d.day) = 5
             when 9 then extract(day from d.day)::int % 2 = 1 and extract(dow from d.day) = 5
           end as should
      from unnest('{0 0 L * *,0 0 LW * *,0 0 * * 5L,0 0 * * 1#2,0 0 * * 7#5,0 0 15W * *,0 0 1W * *,0 0 13 * 5,0 0 */2 '
          '* 5}'::text[]) with ordinality c(cron, n)
     cross join lateral (select awa._parse_cron(c.cron) as parsed offset 0) p
     cross join lateral (
        select s.first,
          awa._cron_days(p.parsed, extract(day from s.first + interval '1 month' - interval '1 day')::int,
          extract(dow from s.first)::int) as days
          from generate_series('2020-01-01'::timestamp, '2047-12-01', '1 month') s(first)
        offset 0
     ) m
     cross join lateral generate_series(m.first, m.first + interval '1 month' - interval '1 day', '1 day') d(day)
  ) d where d.comes <> d.should), null,
    'days by the last of a month, its weekdays, their number, the nearest, and both fields');

select * from finish();
rollback;
