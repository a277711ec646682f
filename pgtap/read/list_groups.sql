-- Without this, nobody would see which customers wait, and for what.
\set name list_groups
\ir ../prelude.psql

select awa.configure_queue(:'queue', '{"group_max_running": 2}') \g /dev/null
select awa.enqueue(:'queue', 'k', group_key => g) from unnest('{a,a,a,a,b}'::text[]) g \g /dev/null
select awa.pause_group(:'queue', 'empty', 'closed for good') \g /dev/null
select awa.pause_group(:'queue', 'later', 'a while', '2130-01-01') \g /dev/null
select awa.configure_group(:'queue', 'rich', '{"group_max_running": 9}') \g /dev/null
create temp table c as select * from awa.claim(:'queue', 9);
select awa.configure_queue(:'queue' || ' rate', '{"group_rate": {"jobs": 1, "per": "1 hour"}}') \g /dev/null
select awa.enqueue(:'queue' || ' rate', 'k', group_key => 'g') from generate_series(1, 3) \g /dev/null
select count(*) from awa.claim(:'queue' || ' rate', 9) \g /dev/null
select awa.configure_queue(:'queue' || ' order', '{"group_order": "strict"}') \g /dev/null
select awa.enqueue(:'queue' || ' order', 'k', group_key => 'g') from generate_series(1, 2) \g /dev/null
select awa.fail(job_id, receipt, 'broken', '1 hour') from awa.claim(:'queue' || ' order', 9) \g /dev/null
select count(*) from awa.claim(:'queue' || ' order', 9) \g /dev/null
select awa.configure_queue(:'queue' || ' whole', '{"max_running": 2}') \g /dev/null
select awa.enqueue(:'queue' || ' whole', 'k') from generate_series(1, 5) \g /dev/null
select count(*) from awa.claim(:'queue' || ' whole', 1) \g /dev/null
create temp table l as select g.*, g.ordinality as n from awa.list_groups(:'queue') with ordinality g;

begin;
select plan(19);

select is((select array_agg(format('%s %s %s', group_key, running, waiting) order by group_key) from l),
  '{a 2 2,b 1 0,empty 0 0,later 0 0,rich 0 0}', 'groups that run or wait, are paused, or have limits of their own');
select ok((select oldest_waiting_at < now() and next_at is null and reason is null from l where group_key = 'a'),
  'since when the oldest one waits');
select is((select row(next_at, paused_at < now(), paused_until, reason)::text from l where group_key = 'empty'),
  '(,t,,"closed for good")', 'a pause, also of a group without jobs');
select is((
  select row(next_at = paused_until, paused_until = '2130-01-01', reason)::text from l where group_key = 'later'
),
  '(t,t,"a while")', 'and when it ends');
create temp table pages (n int generated always as identity, group_key text);
do $$
declare
  v_last text;
begin
  for n in 1..4 loop
    insert into pages (group_key) select g.group_key from awa.list_groups(pg_temp.q(), v_last, 2) g;
    v_last := (select p.group_key from pages p order by p.n desc limit 1);
  end loop;
end
$$;
select is((select array_agg(p.group_key order by p.n) from pages p),
  (select array_agg(l.group_key order by l.n) from l),
  'page by page the same ones, once each');
select ok((select g.next_at > now() + interval '59 minutes' from awa.list_groups(:'queue' || ' rate') g),
  'when its rate lets the next one begin');
select is((select row(g.running, g.waiting, g.next_at > now() + interval '59 minutes')::text
             from awa.list_groups(:'queue' || ' order') g), '(0,1,t)', 'or the job comes for which it is reserved');
select alike((select g.reason from awa.list_groups(:'queue' || ' order') g),
  'it is reserved for job %, which waits for its retry at %its last error: broken', 'which is named, with its error');
select is((select count(*) from awa.list_groups(:'queue' || ' whole')), 0::bigint, 'a queue without groups has none');
update awa.group_settings s set paused_until = now() where s.group_key = 'later';
select is((select count(*) from awa.list_groups(:'queue') g where g.group_key = 'later'), 0::bigint,
  'a pause that is over is none');

-- How many of the available wait for a limit
select is((select row(c.available, c.limited)::text from awa.queue_counts(:'queue') c), '(2,2)', 'of their groups');
select is((select row(c.available, c.limited)::text from awa.queue_counts(:'queue' || ' rate') c), '(2,2)',
  'of the rate of these');
select is((select row(c.available, c.limited)::text from awa.queue_counts(:'queue' || ' whole') c), '(4,3)',
  'of the queue, but for those that have room');
select awa.complete(c.job_id, c.receipt) from c where c.group_key = 'a' \g /dev/null
select is((select c.limited from awa.queue_counts(:'queue') c), 2::bigint, 'until a claim has given them turns');

select pg_temp.refused(format('select awa.list_groups(%s)', c.arguments), c.state, c.names, c.description)
  from (values
    (1, 'null', '22023', 'queue', 'no queue'), (2, 'pg_temp.q($$ none$$)', 'JQ002', 'queue', 'an unknown queue'),
    (3, 'pg_temp.q(), $$$$', '22023', 'after_key', 'an empty key'),
    (4, 'pg_temp.q(), null, 0', '22023', 'max_groups', 'no groups'),
    (5, 'pg_temp.q(), null, 1001', '22023', 'max_groups', 'too many groups')
  ) c(n, arguments, state, names, description)
 order by c.n;

select * from finish();
rollback;
