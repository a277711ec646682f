-- Without this, an entry would begin without a slot, or wait although its group is free.
\set name admission
\ir ../prelude.psql

select awa.configure_queue(:'queue', '{"group_max_running": 2}') \g /dev/null
select awa.enqueue(:'queue', 'k', to_jsonb(n), group_key => g) as id
  from unnest('{a,a,a,b,null,a,b,b,c}'::text[]) with ordinality u(g, n) \g /dev/null

begin;
select plan(13);

create temp table lane as select awa._lane(awa._queue_id(:'queue'), 2) as lane;
create temp table terms as
select t.* from lane cross join lateral awa._claim_terms(:'queue', lane >> 3, awa._snapshot(), null) t;
create function pg_temp.takes(group_max_running int, rate jsonb default null) returns text
language sql
return (
  select string_agg(coalesce(a.group_key, '-') || a.takes, ' ' order by a.ordinality)
    from terms t
   cross join lane l
   cross join lateral awa._admission(l.lane >> 3, l.lane,
      awa._open_window(t.segment, l.lane, awa._snapshot(), t.has_tombstones), t.cleaned, t.cleaned_until, 100, 0,
      jsonb_populate_record(null::awa.queue_settings,
        jsonb_build_object('group_max_running', group_max_running, 'group_rate', rate)), true, clock_timestamp()) a
);
select is(pg_temp.takes(1), 'a1 a0 a0 b1 -1 a0 b0 b0 c1', 'one of each group begins, and all without one');
select is(pg_temp.takes(2), 'a1 a1 a0 b1 -1 a0 b1 b0 c1', 'or two');
select is(pg_temp.takes(null), 'a1 a1 a1 b1 -1 a1 b1 b1 c1', 'or all');
insert into awa.group_states
select lane >> 3, awa._group_id(g), nextval('awa.state_ids'), r, l, f, 0, 0, null, null, 0
  from lane, (values ('a', 1, false, false), ('b', 0, true, false), ('c', 0, false, true)) s(g, r, l, f);
select is(pg_temp.takes(2), 'a1 a0 a0 b0 -1 a0 b0 b0 c0', 'less what runs; none of a group that has a line');
select is(pg_temp.takes(null), 'a1 a1 a1 b0 -1 a1 b0 b0 c0', 'also where the limit was taken away');
delete from awa.group_states s where s.shard = (select lane >> 3 from lane);
\set rate '{"jobs": 3, "per": "1 hour", "burst": 3}'
insert into awa.group_states
select lane >> 3, awa._group_id(g), nextval('awa.state_ids'), 0, false, false, 0, 0, null, now() + n, t
  from lane, (values ('a', interval '20 minutes', 0), ('b', '0', 2)) s(g, n, t);
select is(pg_temp.takes(null, :'rate'), 'a1 a1 a0 b1 -1 a0 b0 b0 c1', 'as many as a rate lets begin, less turns');
select is(pg_temp.takes(1, :'rate'), 'a1 a0 a0 b1 -1 a0 b0 b0 c1', 'both limits hold');
delete from awa.group_states s where s.shard = (select lane >> 3 from lane);
insert into awa.group_settings
  (queue_id, group_id, group_key, group_max_running, paused_at, paused_until, changed_at, changed_by)
select awa._queue_id(:'queue'), awa._group_id(g), g, m, p, u, now(), ''
  from (values ('a', 3, null::timestamptz, null::timestamptz), ('b', null, now(), null),
               ('c', null, now(), now() - interval '1 hour')) s(g, m, p, u);
select is(pg_temp.takes(1), 'a1 a1 a1 b0 -1 a0 b0 b0 c1', 'a group has its own limit, or is paused, until a time');
update awa.group_settings g set paused_until = 'infinity', group_rate = :'rate' where g.paused_at is not null;
select is(pg_temp.takes(null), 'a1 a1 a1 b0 -1 a0 b0 b0 c0', 'a pause goes before limits');
delete from awa.group_settings g where g.queue_id = awa._queue_id(:'queue');

-- As far as there is room
select is((select array_agg(c.args) from awa.claim(:'queue', 3) c), '{1,2,4}', 'a claim takes what it asks for');
select is((select array_agg(w.args order by w.waiting_id) from awa.limited_jobs w join lane l on l.lane = w.lane),
  '{3}', 'what it met before waits');
select results_eq('
    select k.outcome, k.item, cardinality(k.items)
      from awa.lease_claim_closures k
      join awa.lease_claims c using (segment, claim_id)
      join lane using (lane)',
  $$ values ('limited'::text, -1::smallint, 1) $$, 'and is closed in the ledger at once');
select results_eq('
    select c.groups, c.job_ids[3] = (select w.job_id from awa.limited_jobs w where w.lane = c.lane)
      from awa.lease_claims c
      join lane using (lane)
     where cardinality(c.job_ids) > 0',
  $$ select array[awa._group_id('a'), awa._group_id('a'), null, awa._group_id('b')], true $$,
  'the claim says who holds a slot');

select * from finish();
rollback;
