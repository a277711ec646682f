-- The row that configuration returns, one per setting.
create or replace view awa.configuration_row as
select q.name, q.name as type, w.info as value, w.info as default_value, w.info as min_value, w.info as max_value,
       q.name as description
  from awa.queues q, awa.workers w
 where false;
comment on view awa.configuration_row is
  'The row that configuration returns, one per setting. The view itself is always empty';

-- The settings of the installation, with their ranges and defaults: one row for each, by name.
-- Returns the value, the default, the range, the type (interval, integer, number or boolean), and the meaning. Values
-- are as configure takes them; intervals are texts as PostgreSQL writes them ("24:00:00").
create or replace function awa.configuration() returns setof awa.configuration_row
language sql stable
security definer
set search_path = pg_catalog, pg_temp
set IntervalStyle = postgres
as $$
with known as materialized (
  select k.name, k.type, k.min_value, k.max_value, k.default_value from awa._known_settings k where not k.of_queue
), held as (
  select to_jsonb(s) as held, to_jsonb(jsonb_populate_record(s, o.defaults)) as defaults,
         to_jsonb(jsonb_populate_record(s, o.min_values)) as min_values,
         to_jsonb(jsonb_populate_record(s, o.max_values)) as max_values
    from awa.settings s
   cross join (
      select jsonb_object_agg(k.name, k.default_value) as defaults, jsonb_object_agg(k.name, k.min_value) as min_values,
             jsonb_object_agg(k.name, k.max_value) as max_values
        from known k
    ) o
)
select k.name, k.type, h.held -> k.name, h.defaults -> k.name, nullif(h.min_values -> k.name, 'null'),
       nullif(h.max_values -> k.name, 'null'), col_description(a.attrelid, a.attnum)
  from known k
  join pg_attribute a on a.attrelid = 'awa.settings'::regclass and a.attname = k.name
  left join held h on true
 order by k.name
$$;
comment on function awa.configuration is
  'The settings of the installation, with their ranges and defaults: one row for each, by name';
