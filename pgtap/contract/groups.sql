-- Without this, a job would lose its group on its way, or nobody could find or change the jobs of a group.
\set name groups
\ir ../prelude.psql

-- One job through all that it may go through
select awa.configure_queue(:'queue' || ' life', '{"dead_letter": true}') \g /dev/null
create temp table life (n int generated always as identity, step text, state text, group_key text, queue text);
create function pg_temp.note(step text, job_id bigint) returns void
language sql
as $$
  insert into life (step, state, group_key, queue)
  select step, j.state, j.group_key, replace(j.queue, pg_temp.q(), '') from awa.job(job_id) j;
$$;
create temp table taken as select c.* from awa.claim('none') c;
create function pg_temp.take_one() returns void
language sql
as $$
  delete from taken;
  insert into taken select c.* from awa.claim(pg_temp.q(' life')) c;
$$;
select awa.enqueue(:'queue' || ' life', 'k', group_key => 'acme', run_at => now() + interval '1 day') as job_id \gset
select pg_temp.note('scheduled', :job_id) \g /dev/null
select awa.reschedule(:job_id, now() + interval '1 millisecond') \g /dev/null
select pg_sleep(0.002) \g /dev/null
select awa.promote_due() \g /dev/null
select pg_temp.note('promoted', :job_id) \g /dev/null
select pg_temp.take_one() \g /dev/null
select pg_temp.note('claimed', :job_id) \g /dev/null
select awa.snooze(job_id, receipt, '0') from taken \g /dev/null
select pg_temp.note('snoozed', :job_id) \g /dev/null
select awa.retry(:job_id) \g /dev/null
select pg_temp.note('retried before its time', :job_id) \g /dev/null
select pg_temp.take_one() \g /dev/null
select awa.release(job_id, receipt) from taken \g /dev/null
select pg_temp.note('released', :job_id) \g /dev/null
select awa.set_priority(:job_id, 1) \g /dev/null
select pg_temp.note('of another priority', :job_id) \g /dev/null
select awa.move(:job_id, :'queue' || ' other') \g /dev/null
select pg_temp.note('moved', :job_id) \g /dev/null
select awa.move(:job_id, :'queue' || ' life') \g /dev/null
select pg_temp.take_one() \g /dev/null
select awa.fail(job_id, receipt, 'e', retry_after => '0') from taken \g /dev/null
select pg_temp.note('failed', :job_id) \g /dev/null
select awa.promote_due() \g /dev/null
select pg_temp.take_one() \g /dev/null
select awa.extend(job_id, receipt, '1 hour') from taken \g /dev/null
select pg_temp.note('in a row of its own', :job_id) \g /dev/null
select awa.discard(job_id, receipt, 'e') from taken \g /dev/null
select pg_temp.note('dead', :job_id) \g /dev/null
select awa.retry(:job_id) \g /dev/null
select pg_temp.note('redriven', :job_id) \g /dev/null
select awa.cancel(:job_id) \g /dev/null
select pg_temp.note('cancelled', :job_id) \g /dev/null
select awa.retry(:job_id) \g /dev/null
select awa.rotate(force => true) \g /dev/null
call pg_temp.one_segment();
select pg_temp.note('carried', :job_id) \g /dev/null
select pg_temp.take_one() \g /dev/null
create temp table shown as select t.group_key from taken t;
select awa.complete(job_id, receipt) from taken \g /dev/null
select pg_temp.note('completed', :job_id) \g /dev/null

-- Jobs of two groups, and of none, in each state
select awa.configure_queue(:'queue' || ' dead', '{"dead_letter": true}') \g /dev/null
create temp table made as
select g.group_key, s.suffix, n,
       awa.enqueue(:'queue' || s.suffix, 'k', group_key => g.group_key, max_attempts => 1,
         run_at => case s.suffix when ' later' then now() + interval '1 day' end) as id
  from (values ('a'), ('b'), (null)) g(group_key),
       unnest('{ ready, later, running, completed, failed, dead}'::text[]) t(name)
 cross join lateral (select ' ' || t.name) s(suffix), generate_series(1, 2) n;
create temp table claims as
select s, c.* from unnest('{ running, completed, failed, dead}'::text[]) t(name)
 cross join lateral (select ' ' || t.name) x(s) cross join lateral awa.claim(:'queue' || x.s, 100) c;
select awa.complete(job_id, receipt) from claims where s = ' completed' \g /dev/null
select awa.fail(job_id, receipt, 'e') from claims where s in (' failed', ' dead') \g /dev/null

begin;
select plan(51);

select is(l.group_key, 'acme', l.step || ', it is ' || l.state || l.queue) from life l order by l.n;
select is((select array_agg(s.group_key) from shown s), '{acme}', 'claim shows it');
select matches(awa.explain_job(m.id), 'Its group is a\.',
  'explain_job names the group of a job that waits:' || m.suffix)
  from made m where m.group_key = 'a' and m.n = 1 and m.suffix in (' ready', ' later');
select unalike(awa.explain_job(m.id), '%Its group%', 'and of one without none') from made m
 where m.group_key is null and m.n = 1 and m.suffix = ' ready';

-- Reads
create function pg_temp.listed(state text, group_key text, suffix text) returns text
language sql
as $$
  select concat_ws(' ', count(*), string_agg(distinct j.state || coalesce(j.group_key, '-'), ' '))
    from awa.list_jobs(pg_temp.q(suffix), state, group_key => group_key) j
$$;
select is(pg_temp.listed(s.state, 'a', s.suffix), '2 ' || s.state || 'a',
  'list_jobs lists those of a group that are ' || s.state)
  from (values ('available', ' ready'), ('scheduled', ' later'), ('running', ' running'), ('completed', ' completed'),
    ('failed', ' failed'), ('dead', ' dead')) s(state, suffix);
select is(pg_temp.listed(null, 'b', s.suffix), '2 ' || s.state || 'b', 'of whatever state: ' || s.state)
  from (values ('available', ' ready'), ('completed', ' completed')) s(state, suffix);
select is(pg_temp.listed('available', 'c', ' ready'), '0', 'none of another group');
select is((select array_agg(i order by i) from awa.scan_jobs(jsonb_build_object('group_key', 'a', 'queue',
  pg_temp.q(' failed'))) s cross join unnest(s.job_ids) i),
  (select array_agg(m.id order by m.id) from made m where m.group_key = 'a' and m.suffix = ' failed'),
  'scan_jobs finds them');

-- Changes
create function pg_temp.left_over(suffix text) returns text
language sql
as $$
  select string_agg(t.jobs || ' ' || t.state || coalesce(' ' || t.group_key, ''), ', ' order by t.state, t.group_key)
    from (
      select j.state, j.group_key, count(*) as jobs from awa.jobs j where j.queue = pg_temp.q(suffix) group by 1, 2
    ) t
$$;
select is(awa.cancel_where(group_key => 'a', queue => pg_temp.q(s)), 2::bigint,
  'cancel_where cancels those of a group:' || s)
  from unnest('{" ready"," later"," running"}'::text[]) s;
select is(pg_temp.left_over(' ready'), '2 available b, 2 available, 2 cancelled a', 'and no others');
select is(pg_temp.left_over(' later'), '2 cancelled a, 2 scheduled b, 2 scheduled', 'nor scheduled ones');
select is(pg_temp.left_over(' running'), '2 cancelled a, 2 running b, 2 running', 'nor running ones');
select is(awa.retry_where(group_key => 'a', queue => pg_temp.q(' failed')), 2::bigint, 'retry_where retries them');
select is(pg_temp.left_over(' failed'), '2 available a, 2 failed b, 2 failed', 'and no others');
select is(awa.retry_where(group_key => 'b', queue => pg_temp.q(' later'), state => 'scheduled'), 2::bigint,
  'scheduled ones, too');
select is(awa.purge_dlq(group_key => 'a', queue => pg_temp.q(' dead')), 2::bigint, 'purge_dlq purges them');
select is(pg_temp.left_over(' dead'), '2 dead b, 2 dead', 'and no others');
select is(awa.delete_where(group_key => 'b', queue => pg_temp.q(s)), 2::bigint, 'delete_where deletes them:' || s)
  from unnest('{" failed"," completed"}'::text[]) s;
select is(pg_temp.left_over(' completed'), '2 completed a, 2 completed', 'and no others');

-- A group is a filter of its own, and has to be one
select is(pg_temp.outcome('select awa.cancel_where(group_key => $$none$$)'), 'ok', 'a group alone is a filter');
select pg_temp.refused(format(call, $$''$$), '22023', 'group_key', 'an empty group, of ' || split_part(call, '(', 1))
  from unnest('{select awa.cancel_where(group_key => %s),select awa.retry_where(group_key => %s),'
    'select awa.purge_dlq(group_key => %s),select awa.delete_where(group_key => %s),'
    'select awa.list_jobs(group_key => %s)}'::text[]) call;
select pg_temp.refused($$select awa.scan_jobs('{"group_key": ""}')$$, '22023', 'group_key', 'or of scan_jobs');
select pg_temp.agrees('the books balance');

select * from finish();
rollback;
