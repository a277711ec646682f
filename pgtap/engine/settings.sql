-- Without this, a setting would have another default, or another range, where it is checked than where it is used.
\set name known_settings
\ir ../prelude.psql

begin;
select plan(14);

select is((select array_agg(k.name order by k.name) from awa._known_settings k where not k.of_queue),
  (select array_agg(a.attname::text order by a.attname) from pg_attribute a where a.attrelid = 'awa.settings'::regclass
    and a.attnum > 0 and a.attname <> 'only_row'),
  'every setting of the installation is known');
select is((select array_agg(k.name order by k.name) from awa._known_settings k where k.of_queue),
  (select array_agg(a.attname::text order by a.attname) from pg_attribute a
    where a.attrelid = 'awa.queue_settings'::regclass and a.attnum > 0
      and a.attname not in ('queue_id', 'paused_at', 'changed_at', 'changed_by', 'depth_note')),
  'and every one of a queue');
select is((select array_agg(k.name order by k.name)
    from awa._known_settings k
    join pg_attribute a on a.attrelid = case when k.of_queue then 'awa.queue_settings' else 'awa.settings' end::regclass
      and a.attname = k.name
   where format_type(a.atttypid, null) <> all (
           case k.type when 'integer' then '{smallint,integer,bigint}' when 'number' then '{numeric}'
             when 'rate' then '{jsonb}' when 'choice' then '{text}'
             else array[k.type] end)),
  null,
  'of the type of its column');

-- The row that a new installation has
set local session_replication_role = replica;
delete from awa.settings;
insert into awa.settings default values;
set local session_replication_role = origin;
select is((select array_agg(format('%s: %s, not %s', c.name, c.value, c.default_value)) from awa.configuration() c
  where c.value is distinct from c.default_value), null,
  'the defaults are those of the columns');

-- The checks of the table are a second line: what is just out of range there is out of range here.
create function pg_temp.refuses(bound text, step text) returns text[]
language plpgsql
as $$
declare
  v_refusing text[] := '{}';
  v_known record;
begin
  for v_known in
    select *
      from awa._known_settings k
     where not k.of_queue and k.type <> 'boolean' and k.name <> 'segment_bytes'
     order by k.name
  loop
    if pg_temp.outcome(format(
         'update awa.settings set %1$I = %2$L::%3$s %4$s', v_known.name, to_jsonb(v_known) ->> bound,
         case v_known.type when 'interval' then 'interval' else 'numeric' end,
         step || case when step = '' then ''
           when v_known.type = 'interval' then $i$ interval '1 microsecond'$i$ else ' 1' end)) = '23514' then
      v_refusing := v_refusing || v_known.name;
    end if;
  end loop;
  return v_refusing;
end
$$;
select is(pg_temp.refuses('min_value', '') || pg_temp.refuses('max_value', ''), '{}', 'the table takes the bounds');
select is(pg_temp.refuses('min_value', '-'),
  (select array_agg(c.name) from awa.configuration() c where c.type <> 'boolean' and c.name <> 'segment_bytes'),
  'and nothing below');
select is(pg_temp.refuses('max_value', '+'),
  (select array_agg(c.name) from awa.configuration() c where c.type <> 'boolean' and c.name <> 'segment_bytes'),
  'and nothing above');

-- What JSON may hold
select is((select array_agg(coalesce(awa._interval(v.value)::text, 'none') order by v.n)
  from (values (1, '"1 hour"'::jsonb), (2, '90'), (3, '0.001'), (4, '"soon"'), (5, 'true'), (6, '{}'), (7, 'null')) v(n,
  value)),
  '{01:00:00,00:01:30,00:00:00.001,none,none,none,none}', 'intervals are texts or seconds');

-- The defaults of a queue are written in one place
select is((select array_agg(k.name || ' ' || k.default_value order by k.name)
             from awa._known_settings k
            where k.of_queue and k.default_value is not null),
  '{"aging_interval 00:01:00","backoff_base 00:00:01","backoff_max 24:00:00","dead_letter false",'
  '"default_max_attempts 25","default_priority 2","dlq_retention 30 days","failed_retention 72:00:00",'
  '"group_order start","group_turns false","lease 00:01:00","shards 1"}', 'the defaults of a queue');
select is(awa._default_interval('other'), null, 'another setting has none');
select is(awa._default_number('other'), null, 'of either kind');
select is(awa._retention('cancelled', null, '1 day'), interval '72 hours', 'cancelled jobs are kept as failed ones');
select is(awa._retention('dead', '1 day', null), interval '30 days', 'dead ones by a setting of their own');
select is(awa._retention('dead', '1 day', '2 days'), interval '2 days', 'which an operator may have set');

select * from finish();
rollback;
