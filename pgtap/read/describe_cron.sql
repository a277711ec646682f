-- Without this, whoever reads an expression has to know that "13 * 5" is "or", and "*/2 * 5" is "and".
\set name describe_cron
\ir ../prelude.psql

begin;
select plan(62);

create temp table descriptions (n int generated always as identity, cron text, words text);
insert into descriptions (cron, words) values
  ('* * * * *', 'every minute, every day'),
  ('*/15 * * * *', 'every 15 minutes, every day'),
  ('0 * * * *', 'at minute 0 of every hour, every day'),
  ('*/7 * * * *', 'at minutes 0, 7, 14, 21, 28, 35, 42, 49 and 56 of every hour, every day'),
  ('5/15 * * * *', 'at minutes 5, 20, 35 and 50 of every hour, every day'),
  ('30 9 * * MON-FRI', 'at 09:30, on Monday to Friday'),
  ('0 9,17 * * *', 'at 09:00 and 17:00, every day'),
  ('*/15 9-17 * * MON-FRI', 'every 15 minutes of hours 9 to 17, on Monday to Friday'),
  ('0 */2 * * *', 'at minute 0, every 2 hours, every day'),
  ('0 9-17/4 * * *', 'at 09:00, 13:00 and 17:00, every day'),
  ('0,30 8-10 * * *', 'at 08:00, 08:30, 09:00, 09:30, 10:00 and 10:30, every day'),
  ('15 0,6,12,18 * * *', 'at 00:15, 06:15, 12:15 and 18:15, every day'),
  ('1-5,20 * * * *', 'at minutes 1 to 5 and 20 of every hour, every day'),
  ('* 9 * * *', 'every minute of hour 9, every day'),
  ('* */2 * * *', 'every minute of hours 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20 and 22, every day'),
  ('* * * * * *', 'every second, every day'),
  ('*/10 * * * * *', 'every 10 seconds, every day'),
  ('30 */5 * * * *', 'at second 30, every 5 minutes, every day'),
  ('*/20 30 2 * * *', 'at 02:30:00, 02:30:20 and 02:30:40, every day'),
  ('7,9 * * * * *', 'at seconds 7 and 9 of every minute, every day'),
  ('* * 9 * * *', 'every second of hour 9, every day'),
  ('* */15 * * * *', 'every second of minutes 0, 15, 30 and 45, every day'),
  ('*/30 5 * * * *', 'every 30 seconds of minute 5 of every hour, every day'),
  ('*/30 5 */2 * * *', 'every 30 seconds of minute 5, every 2 hours, every day'),
  ('@hourly', 'at minute 0 of every hour, every day'),
  ('@weekly', 'at 00:00, on Sunday'),
  ('@yearly', 'at 00:00, on day 1 of the month, in January'),
  ('0 0 1,15 * *', 'at 00:00, on days 1 and 15 of the month'),
  ('0 0 L * *', 'at 00:00, on the last day of the month'),
  ('0 0 LW * *', 'at 00:00, on the last weekday (Monday to Friday) of the month'),
  ('0 0 15W * *', 'at 00:00, on the weekday (Monday to Friday) nearest to day 15 of the month'),
  ('0 0 31W * *', 'at 00:00, on the last weekday (Monday to Friday) of the month'),
  ('0 0 1,15W,L 1,6-8 *',
    'at 00:00, on day 1 of the month or on the last day of the month or on the weekday (Monday to Friday) nearest '
        'to day 15 of the month, in January and June to August'),
  ('0 12 * * 5L', 'at 12:00, on the last Friday of the month'),
  ('0 12 * * 1L,2L', 'at 12:00, on the last Monday and Tuesday of the month'),
  ('0 12 * * 1#1,3#3', 'at 12:00, on the first Monday of the month or on the third Wednesday of the month'),
  ('0 0 * * 6-7', 'at 00:00, on Saturday and Sunday'),
  ('0 0 * * 0,6', 'at 00:00, on Saturday and Sunday'),
  ('0 0 29 2 *', 'at 00:00, on day 29 of the month, in February'),
  ('0 12 13 * FRI', 'at 12:00, on day 13 of the month or on Friday'),
  ('0 12 L * 5L', 'at 12:00, on the last day of the month or on the last Friday of the month'),
  ('0 12 15W * 1#1',
    'at 12:00, on the weekday (Monday to Friday) nearest to day 15 of the month or on the first Monday of the month'),
  ('0 12 */2 * FRI',
    'at 12:00, on days 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29 and 31 of the month and only if it is '
        'Friday'),
  ('0 12 13 * */2', 'at 12:00, on day 13 of the month and only if it is Tuesday, Thursday, Saturday or Sunday'),
  ('0 12 15W * */3',
    'at 12:00, on the weekday (Monday to Friday) nearest to day 15 of the month and only if it is Wednesday, Saturday '
        'or Sunday'),
  ('*/30 2 * * *', 'at 02:00 and 02:30 by the clock on the wall, every day'),
  ('0,30 2 * * *', 'at 02:00 and 02:30, every day'),
  ('0 */12 * * MON', 'at 00:00 and 12:00 by the clock on the wall, on Monday'),
  ('0 12 1-31 * MON', 'at 12:00, every day'),
  ('0 12 1-15,16-31 * FRI', 'at 12:00, every day'),
  ('0 12 1-31 * 5L', 'at 12:00, every day'),
  ('0 12 1 * 0-6', 'at 12:00, every day'),
  ('0 12 1 * SUN-SAT', 'at 12:00, every day'),
  ('0 12 13 * 1-7', 'at 12:00, every day'),
  ('0 12 L 6 0-7', 'at 12:00, every day, in June'),
  ('0 12 1-31 * 0-7', 'at 12:00, every day'),
  ('0 12 */1 * MON', 'at 12:00, on Monday'),
  ('0 12 1-31 * */2', 'at 12:00, on Tuesday, Thursday, Saturday and Sunday'),
  ('0 12 13 * */1', 'at 12:00, on day 13 of the month');
select is(awa.describe_cron(d.cron), d.words, d.cron) from descriptions d order by d.n;

-- Each one that is every day in words comes on each of a year's days, and no other does
select is(bool_and((awa.describe_cron(d.cron) ~ 'every day$') = (
    select count(distinct f.at::date) = 365
      from (select awa.next_fires(d.cron, after => '2025-12-31 23:59:59+00', n => 1000) as at) f
     where f.at < '2027-01-01 00:00+00'
  )), true, 'the words say what next_fires does')
  from descriptions d
 where d.cron ~ '^0 12 ';

select pg_temp.refused('select awa.describe_cron(''0 0 30 2 *'')', '22023', 'cron', 'an expression that never comes');
select pg_temp.refused('select awa.describe_cron(null)', '22023', 'cron', 'no expression');

select * from finish();
rollback;
