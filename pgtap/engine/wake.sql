-- Without this, each enqueue would notify, and the server's queue of notifications would be the bottleneck. Who hears a
-- notification is covered by tests with several sessions.
\set name wake
\ir ../prelude.psql
begin;
select plan(5);

select 'awa.wake_clock_' || to_hex(awa._queue_id(:'queue') >> 50) as clock \gset
create function pg_temp.tick() returns bigint
language sql
return (extract(epoch from clock_timestamp()) * 200)::bigint;

select setval(:'clock', 1) \g /dev/null
select awa._wake(awa._queue_id(:'queue')) \g /dev/null
select ok(pg_sequence_last_value(:'clock') between pg_temp.tick() - 12000 and pg_temp.tick(),
  'a wake-up moves the clock of its channel to the present tick of 5 ms');
select setval(:'clock', pg_temp.tick() + 200000) \g /dev/null
select awa._wake(awa._queue_id(:'queue')) \g /dev/null
select ok(pg_sequence_last_value(:'clock') <= pg_temp.tick(), 'back, when it was ahead');
-- In most of many tries the tick is not over before the call is
create function pg_temp.moves(clock regclass) returns bigint
language plpgsql
as $$
declare
  v_tick bigint;
  v_moves bigint := 0;
begin
  for n in 1..200 loop
    v_tick := setval(clock, pg_temp.tick() + 1);
    perform awa._wake(awa._queue_id(pg_temp.q()));
    v_moves := v_moves + (pg_sequence_last_value(clock) <> v_tick)::int;
  end loop;
  return v_moves;
end
$$;
select cmp_ok(pg_temp.moves(:'clock'), '<', 100::bigint, 'within a tick it is not moved again');

-- The settings
update awa.settings set notifications = false;
select setval(:'clock', 1) \g /dev/null
select lives_ok(format('select awa._wake(%s)', awa._queue_id(:'queue')), 'where nobody is notified, all goes on');
select ok(pg_sequence_last_value(:'clock') > 1, 'by the same clock');

select * from finish();
rollback;
