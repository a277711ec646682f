-- Without this, claims of a queue with shards would wait for each other, or pass jobs by. Interleavings of several
-- sessions are covered by tests in Go.
\set name claim_shards
\ir ../prelude.psql

begin;
select plan(9);

select pg_temp.fill(:'queue', 5) \g /dev/null
select awa._queue_id(:'queue') as queue_id, awa._queue_id(:'queue') << 6 as shard \gset

select is(awa._shards_with_jobs(:queue_id, '{}'), array[:shard]::bigint[], 'a shard with jobs');
select is(awa._shards_with_jobs(:queue_id, array[:shard]::bigint[]), '{}', 'but for that one there is none');
select is(awa._some_shards_with_jobs(:queue_id), array[:shard]::bigint[], 'at a glance, too');
select count(*) from awa.claim(:'queue', 2) \g /dev/null
select is(awa._some_shards_with_jobs(:queue_id), array[:shard]::bigint[], 'after a claim that left some');
select is(awa._take_shard(:queue_id, '{}', false), :shard, 'it is taken');
select is(awa._take_shard(:queue_id, array[:shard]::bigint[], false), null, 'and no other one');
select count(*) from awa.claim(:'queue', 10) \g /dev/null
select is(awa._some_shards_with_jobs(:queue_id), '{}', 'when all are claimed there is none at a glance');
select is(awa._shards_with_jobs(:queue_id, '{}'), '{}', 'nor at a closer look');
select is(awa._take_shard(:queue_id, '{}', false), null, 'and none is taken');

select * from finish();
rollback;
