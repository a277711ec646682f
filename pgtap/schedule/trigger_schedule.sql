-- Without this, a user who needs the job now would have to know all that the schedule says.
\set name trigger_schedule
\ir ../prelude.psql

begin;
\ir clock.psql
select plan(11);

select awa.schedule('s', pg_temp.q(), 'send', '0 13 * * *', args => '{"a": 1}', priority => 1, overlap => 'skip',
  metadata => '{"m": 1}') \g /dev/null
select awa.trigger_schedule(name => 's') as job_id \gset
select is(
  (select row(j.state, j.kind, j.args, j.priority, j.metadata)::text from awa.job(:job_id) j),
  '(available,send,"{""a"": 1}",1,"{""m"": 1, ""schedule"": {""at"": ""2026-06-01T12:00:30Z"", ""name"": ""s""}}")',
  'the job is there, for now');
select is((select row(l.next_at, l.last_at, l.last_job_id)::text from pg_temp.listed('s') l),
  format('("2026-06-01 13:00:00+00",,%s)', :job_id), 'the ticks go on as before; it is the last job');
select is(pg_temp.fire_at('2026-06-01 13:00:01+00'), 'skipped 1', 'so a time that comes meanwhile overlaps it');
select awa.pause_schedule('s') \g /dev/null
select isnt(awa.trigger_schedule('s'), null, 'also when it is paused');
select isnt((select l.paused_at from pg_temp.listed('s') l), null, 'which it stays');
select awa.schedule('over', pg_temp.q(), 'k', '@daily', ends_at => '2026-01-01') \g /dev/null
select isnt(awa.trigger_schedule('over'), null, 'or over');

select pg_temp.refused(format('select awa.trigger_schedule(%s)', c.call), c.state, c.names, c.description)
  from (values (1, 'null', '22023', 'name', 'no name'), (2, '''none''', 'JQ007', 'no such schedule', 'an unknown one')
    ) c(n, call, state, names, description) order by c.n;
select awa.configure_queue(pg_temp.q(), '{"max_depth": 1}') \g /dev/null
select is(pg_temp.outcome('select awa.trigger_schedule($$s$$)'), 'JQ006', 'a full queue');
select awa.unschedule('s') \g /dev/null
select pg_temp.refused('select awa.trigger_schedule(''s'')', 'JQ007', 'no such schedule', 'one that was removed');
select pg_temp.agrees('the books balance');

select * from finish();
rollback;
