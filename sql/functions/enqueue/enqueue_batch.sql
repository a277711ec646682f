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
  if jsonb_array_length(jobs) > 10000 then
    perform awa._refuse('jobs must hold at most 10000 elements', jsonb_array_length(jobs)::text, 'Split it into several calls.');
  end if;
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
    return query
      select unnest(awa._append(o.queue, o.kind, v_run.args, o.priority, o.run_at, o.max_attempts, o.tags, o.metadata))
        from awa._job_options(v_run.rest) o;
  end loop;
end
$$;
comment on function awa.enqueue_batch is 'Appends jobs of any queues and kinds, and returns the ids in the order of the array';

-- The fields of a job object, but for args.
create or replace function awa._job_options(
  job              jsonb,
  out queue        text,
  out kind         text,
  out priority     int,
  out run_at       timestamptz,
  out max_attempts int,
  out tags         text[],
  out metadata     jsonb
)
language plpgsql
as $$
begin
  queue := job ->> 'queue';
  kind := job ->> 'kind';
  priority := (job ->> 'priority')::int;
  run_at := awa._timestamp(job ->> 'run_at');
  max_attempts := (job ->> 'max_attempts')::int;
  if jsonb_typeof(job -> 'tags') = 'array' then
    tags := array(select t.tag from jsonb_array_elements_text(job -> 'tags') with ordinality t(tag, n) order by t.n);
  end if;
  metadata := nullif(job -> 'metadata', 'null');
end
$$;
comment on function awa._job_options is 'The fields of a job object, but for args';

-- A timestamp from a text in ISO 8601 with a zone, whatever DateStyle and TimeZone are. Raises 22023.
create or replace function awa._timestamp(value text) returns timestamptz
language plpgsql strict
as $$
begin
  if value !~* '^\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d{1,9})?)? ?(Z|[-+]\d\d(:?\d\d|:\d\d:\d\d)?)$' then
    raise exception using errcode = '22007';
  end if;
  return regexp_replace(value, ' ?z$', '+00', 'i')::timestamptz;
exception when data_exception then
  perform awa._refuse('run_at must be a timestamp in ISO 8601 with a zone', value, 'Pass something like "2031-05-01T09:00:00+02:00" or "2031-05-01T07:00:00Z".');
end
$$;
comment on function awa._timestamp is 'A timestamp from a text in ISO 8601 with a zone';

-- Refuses a job object whose fields are not of enqueue's names, types and ranges, and says which one it is.
create or replace function awa._check_job(job jsonb, place bigint) returns void
language plpgsql
as $$
declare
  v_field text;
  v_value jsonb;
  v_options record;
  v_message text;
  v_detail text;
  v_hint text;
begin
  if jsonb_typeof(job) <> 'object' then
    perform awa._refuse('jobs must hold objects only', format('element %s of type %s', place, jsonb_typeof(job)),
      'Pass an array of objects with the fields of enqueue.');
  end if;
  for v_field, v_value in select * from jsonb_each(job) loop
    if (case v_field
          when 'queue' then jsonb_typeof(v_value) <> 'string'
          when 'kind' then jsonb_typeof(v_value) <> 'string'
          when 'args' then false
          when 'metadata' then false
          when 'priority' then jsonb_typeof(v_value) not in ('null', 'number') or awa._brief(v_value) !~ '^(null|-?[0-9]{1,9})$'
          when 'max_attempts' then jsonb_typeof(v_value) not in ('null', 'number') or awa._brief(v_value) !~ '^(null|-?[0-9]{1,9})$'
          when 'run_at' then jsonb_typeof(v_value) not in ('null', 'string')
          when 'tags' then v_value <> 'null' and (jsonb_typeof(v_value) <> 'array'
            or jsonb_path_exists(v_value, 'strict $[*] ? (@.type() <> "string")'))
          else true
        end)
    then
      perform awa._refuse('jobs holds an object with an unknown or unfit field', format('element %s, %s: %s', place, left(v_field, 100), awa._brief(v_value)),
        'The fields are those of enqueue: queue, kind (strings), args, priority, max_attempts (whole numbers), run_at (a string such as "2031-05-01T09:00:00+02:00"), tags (an array of strings), metadata.');
    end if;
  end loop;
  begin
    v_options := awa._job_options(job);
    perform awa._check_options(v_options.queue, v_options.kind, v_options.priority, v_options.run_at, v_options.max_attempts, v_options.tags);
    if pg_column_size(job) > 2000 then
      perform awa._body_bytes(array[job -> 'args'], v_options.tags, v_options.metadata);
    end if;
  exception when invalid_parameter_value then
    get stacked diagnostics v_message = message_text, v_detail = pg_exception_detail, v_hint = pg_exception_hint;
    raise exception using errcode = '22023', message = 'jobs: ' || v_message, detail = format('Element %s: %s', place, v_detail), hint = v_hint;
  end;
end
$$;
comment on function awa._check_job is 'Refuses a job object whose fields are not of enqueue''s names, types and ranges';
