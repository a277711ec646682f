-- Without this, whoever wants to know the size of a segment waits until all queues were looked at.
\set name health_of
\ir ../prelude.psql

begin;
select plan(15);

select awa.register_worker('w') \g /dev/null
select awa.enqueue(pg_temp.q(), 'k') \g /dev/null
create function pg_temp.findings(topics text[], of_all boolean) returns text
language plpgsql
as $$
begin
  if of_all then
    return (
      select string_agg(concat_ws(' ', h.level, h.topic, h.subject), ', ')
        from awa.health() h
       where topics is null or h.topic = any(topics));
  end if;
  return (select string_agg(concat_ws(' ', h.level, h.topic, h.subject), ', ') from awa.health_of(topics) h);
end
$$;
select is(pg_temp.findings(t::text[], false), pg_temp.findings(t::text[], true),
  'health_of ' || coalesce(t, 'all') || ' says the same')
  from unnest(array[null, '{segment}', '{restore}', '{maintenance}', '{prune,worker}', '{queue}', '{failures,schedule}',
    '{claimer,group,refusals,horizon,notifications}', '{}']) t;
select pg_temp.refused('select * from awa.health_of(''{segment,segments}'')', '22023', 'topics', 'an unknown topic');
select pg_temp.refused('select * from awa.health_of(''{null}'')', '22023', 'topics', 'or none');
savepoint called;
create or replace function awa._health_queues() returns table (
  ordinal int, level text, topic text, subject text, message text, hint text, details jsonb
)
language plpgsql stable
as $$
begin
  raise exception 'called';
end
$$;
select throws_ok('select * from awa.health()', 'P0001', 'called', 'health looks at queues');
select throws_ok('select * from awa.health_of(''{failures}'')', 'P0001', 'called', 'for failures, too');
select lives_ok('select * from awa.health_of(''{segment,prune,worker}'')', 'for other topics they are not looked at');
rollback to called;
select is((select count(distinct h.topic) from awa.health_of('{segment,worker}') h), 2::bigint,
  'of two there is something');

select * from finish();
rollback;
