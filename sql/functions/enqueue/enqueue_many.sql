-- Appends one job per element of args, all of one kind, and returns the ids in that order: the fast path.
-- Raises 22023, JQ006, 55000, 55P03, 40001, as enqueue does.
create or replace function awa.enqueue_many(
  queue        text,
  kind         text,
  args         jsonb[],
  priority     int default null,
  run_at       timestamptz default null,
  max_attempts int default null,
  tags         text[] default null,
  metadata     jsonb default null,
  group_key    text default null,
  expires_at   timestamptz default null
) returns setof bigint
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
begin
  if args is null then
    perform awa._refuse('args must not be null', null, 'Pass an array with the arguments of each job.');
  elsif (cardinality(args) <= 10000 and array_ndims(args) = 1 and array_position(args, null) is null) is not true then
    perform awa._check_array('args', args, 10000);
  end if;
  return query
    select unnest(awa._append(queue, kind, args, priority, run_at, max_attempts, tags, metadata, group_key,
      expires_at));
end
$$;
comment on function awa.enqueue_many is
  'Appends one job per element of args, all of one kind, and returns the ids in that order: the fast path';
