-- Appends jobs of any queues and kinds, from an array of objects with the fields of enqueue.
-- Neighbours that differ in args alone are appended together, so sort them when there are thousands. Raises 22023.
create or replace function awa.enqueue_batch(jobs jsonb) returns setof bigint
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
declare
  v_run record;
begin
  if jobs is null or jsonb_typeof(jobs) <> 'array' then
    perform awa._refuse('jobs must be a JSON array', jsonb_typeof(jobs), 'Pass an array of objects with the fields of enqueue.');
  end if;
  perform awa._check_count('jobs', jsonb_array_length(jobs));
  perform awa._check_job(j.job, j.place) from jsonb_array_elements(jobs) with ordinality j(job, place);

  for v_run in
    with fields as (
      select j.place,
             coalesce(nullif(j.job -> 'args', 'null'), '{}') as args,
             j.job - 'args' as rest,
             (j.job - 'args') is distinct from lag(j.job - 'args') over (order by j.place) as starts
        from jsonb_array_elements(jobs) with ordinality j(job, place)
    ), numbered as (
      select f.*, count(*) filter (where f.starts) over (order by f.place) as run from fields f
    )
    select n.rest, array_agg(n.args order by n.place) as args from numbered n group by n.run, n.rest order by n.run
  loop
    return query select unnest(awa._append(
      v_run.rest ->> 'queue', v_run.rest ->> 'kind', v_run.args, (v_run.rest ->> 'priority')::int,
      (v_run.rest ->> 'run_at')::timestamptz, (v_run.rest ->> 'max_attempts')::int,
      case when jsonb_typeof(v_run.rest -> 'tags') = 'array'
        then array(select t.tag from jsonb_array_elements_text(v_run.rest -> 'tags') with ordinality t(tag, n) order by t.n) end,
      nullif(v_run.rest -> 'metadata', 'null')));
  end loop;
end
$$;
comment on function awa.enqueue_batch is 'Appends jobs of any queues and kinds, and returns the ids in the order of the array';

-- Refuses a job object whose fields are not of enqueue's names and types. Their ranges are checked by _append.
create or replace function awa._check_job(job jsonb, place bigint) returns void
language plpgsql
as $$
declare
  v_field text;
  v_value jsonb;
  v_run_at timestamptz;
begin
  if jsonb_typeof(job) <> 'object' then
    perform awa._refuse('jobs must hold objects only', format('element %s is of type %s', place, jsonb_typeof(job)),
      'Pass an array of objects with the fields of enqueue.');
  end if;
  for v_field, v_value in select * from jsonb_each(job) loop
    if (case v_field
         when 'queue' then jsonb_typeof(v_value) <> 'string'
         when 'kind' then jsonb_typeof(v_value) <> 'string'
         when 'args' then false
         when 'metadata' then false
         when 'priority' then not (v_value = 'null' or v_value in ('1', '2', '3', '4'))
         when 'max_attempts' then not (v_value = 'null' or v_value::text ~ '^[0-9]{1,4}$')
         when 'run_at' then not (v_value = 'null' or jsonb_typeof(v_value) = 'string')
         when 'tags' then not (v_value = 'null' or (jsonb_typeof(v_value) = 'array'
           and not jsonb_path_exists(v_value, 'strict $[*] ? (@.type() <> "string")')))
         else true
       end)
    then
      perform awa._refuse('jobs holds an object with an unknown or unfit field',
        format('element %s, field %s: %s', place, v_field, v_value),
        'The fields are those of enqueue: queue, kind (strings), args, priority (1 to 4), run_at (a timestamp as a string), max_attempts (1 to 1000), tags (an array of strings), metadata.');
    end if;
  end loop;
  if job ->> 'run_at' is not null then
    begin
      v_run_at := (job ->> 'run_at')::timestamptz;
    exception when data_exception then
      perform awa._refuse('jobs holds an object whose run_at is not a timestamp',
        format('element %s: %s', place, job ->> 'run_at'), 'Pass something like "2031-05-01 09:00:00+02".');
    end;
  end if;
end
$$;
comment on function awa._check_job is 'Refuses a job object whose fields are not of enqueue''s names and types';
