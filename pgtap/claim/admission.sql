-- Without this, an entry would begin without a slot, or wait although its group is free.
\set name admission
\ir ../prelude.psql

select awa.configure_queue(:'queue', '{"group_max_running": 2}') \g /dev/null
select awa.enqueue(:'queue', 'k', to_jsonb(n), group_key => g) as id
  from unnest('{a,a,a,b,null,a,b,b,c}'::text[]) with ordinality u(g, n) \g /dev/null

begin;
select plan(9);

create temp table lane as select awa._lane(awa._queue_id(:'queue'), 2) as lane;
create temp table terms as
select t.* from lane cross join lateral awa._claim_terms(:'queue', lane >> 3, awa._snapshot(), null) t;
create function pg_temp.takes(group_max_running int) returns text
language sql
return (
  select string_agg(coalesce(a.group_key, '-') || a.takes, ' ' order by a.ordinality)
    from terms t
   cross join lane l
   cross join lateral awa._admission(l.lane >> 3, l.lane,
      awa._open_window(t.segment, l.lane, awa._snapshot(), t.has_tombstones), t.cleaned, t.cleaned_until, 100, 0,
      group_max_running, clock_timestamp()) a
);
select is(pg_temp.takes(1), 'a1 a0 a0 b1 -1 a0 b0 b0 c1', 'one of each group begins, and all without one');
select is(pg_temp.takes(2), 'a1 a1 a0 b1 -1 a0 b1 b0 c1', 'or two');
select is(pg_temp.takes(null), 'a1 a1 a1 b1 -1 a1 b1 b1 c1', 'or all');
insert into awa.group_states
select lane >> 3, awa._group_id(g), nextval('awa.state_ids'), r, l, f, 0, 0
  from lane, (values ('a', 1, false, false), ('b', 0, true, false), ('c', 0, false, true)) s(g, r, l, f);
select is(pg_temp.takes(2), 'a1 a0 a0 b0 -1 a0 b0 b0 c0', 'less what runs; none of a group that has a line');
select is(pg_temp.takes(null), 'a1 a1 a1 b0 -1 a1 b0 b0 c0', 'also where the limit was taken away');
delete from awa.group_states s where s.shard = (select lane >> 3 from lane);

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
