-- Reading jobs by stretches of ids.

-- The conditions of a filter, once they are checked.
-- Raises 22023.
create or replace function awa._read_filter(
  filter jsonb,
  out queue text,
  out kind text,
  out state text,
  out before timestamptz,
  out tag text,
  out args jsonb,
  out group_key text,
  out cause text
)
language plpgsql stable
as $$
#variable_conflict use_variable
declare
  v_filter jsonb := coalesce(filter, '{}');
  v_key text;
  v_value jsonb;
begin
  if jsonb_typeof(v_filter) <> 'object' then
    perform awa._refuse('filter must be a JSON object', awa._brief(v_filter),
      'Pass something like {"queue": "email", "tag": "eu"}.');
  end if;
  for v_key, v_value in select * from jsonb_each(v_filter) loop
    if v_key not in ('queue', 'kind', 'state', 'before', 'tag', 'args', 'group_key', 'cause') then
      perform awa._refuse('filter holds an unknown key', v_key,
        'The keys are queue, kind, state, before, tag, args, group_key and cause.');
    elsif v_key <> 'args' and jsonb_typeof(v_value) not in ('string', 'null') then
      perform awa._refuse(format('filter: %s must be a string', v_key), awa._brief(v_value),
        'Pass it in quotation marks, or leave it out.');
    end if;
  end loop;
  before := awa._timestamp(v_filter ->> 'before', 'filter: before');
  if before not between '0001-01-02 00:00+00' and '9999-12-31 00:00+00' then -- so that it can be noted, in any zone
    perform awa._refuse('filter: before must be a time in the years 1 to 9999', v_filter ->> 'before',
      'Leave it out for all jobs.');
  end if;
  queue := v_filter ->> 'queue';
  kind := v_filter ->> 'kind';
  state := v_filter ->> 'state';
  tag := v_filter ->> 'tag';
  args := nullif(v_filter -> 'args', 'null');
  group_key := v_filter ->> 'group_key';
  perform awa._check_state(state, 'filter: state');
  perform awa._check_tag(tag, 'filter: tag');
  perform awa._check_group(group_key, 'filter: group_key');
  perform awa._check_cause(v_filter ->> 'cause', 'filter: cause');
  cause := awa._cause(v_filter ->> 'cause');
end
$$;
comment on function awa._read_filter is 'The conditions of a filter, once they are checked';

-- How many entries a call with a filter reads at most; null: as many as it takes.
-- Why: nothing indexes these. To find a cause, a call reads errors, which may be large.
create or replace function awa._most_entries(tag text, args jsonb, group_key text, cause text) returns int
language sql immutable parallel safe
return case when cause is not null then 20000 when num_nonnulls(tag, args, group_key) > 0 then 100000 end;
comment on function awa._most_entries is
  'How many entries a call with a filter reads at most; null: as many as it takes';

-- The ids of matching jobs, the newest first, at most so many; and where to go on, null at the end.
-- states: null for all. cause: an error, or its cause. hidden: of jobs that have ended, also completed ones that their
-- queue keeps no longer. Reads at most so many entries.
create or replace function awa._scan(
  queue text,
  kind text,
  states text[],
  before timestamptz,
  tag text,
  args jsonb,
  group_key text,
  cause text,
  before_id bigint,
  max_jobs int,
  hidden boolean,
  max_entries bigint default 100000,
  out next_before_id bigint,
  out job_ids bigint[]
)
language plpgsql stable
as $$
#variable_conflict use_variable
declare
  v_until bigint := least(before_id, (select s.last_value + 1 from awa.job_ids s));
  v_left bigint := max_entries;
  v_cause text := awa._cause(cause);
  v_length bigint := 1000;
  v_stretch record;
  v_parts int8range[];
begin
  job_ids := '{}';
  while v_until > 1 loop
    v_stretch := awa._stretch(v_until, v_length, v_left);
    if v_stretch.from_id is null then
      next_before_id := v_until;
      return;
    end if;
    v_parts := case
                 when v_stretch.is_empty then '{}'
                 when queue is null then array[int8range(v_stretch.from_id, v_until)]
                 else awa._parts_of_stretch(awa._queue_id(queue), v_stretch.from_id, v_until)
               end;
    if v_parts <> '{}' then
      job_ids := job_ids || case when hidden then array(
        select j.id
          from unnest(v_parts) p
         cross join lateral (
            select j.id, j.queue, j.kind, j.tags, j.args, j.group_key, j.errors, j.finalized_at
              from awa._completed j
             where 'completed' = any(states) and j.id >= lower(p) and j.id < upper(p)
            union all
            select j.id, j.queue, j.kind, j.tags, j.args, j.group_key, j.errors, j.finalized_at
              from awa._done j
             where j.state <> 'completed' and j.state = any(states) and j.id >= lower(p) and j.id < upper(p)
            offset 0
          ) j
         where (queue is null or j.queue = queue)
           and (kind is null or j.kind = kind)
           and (tag is null or j.tags @> array[tag])
           and (args is null or j.args @> args)
           and (group_key is null or j.group_key = group_key)
           and (cause is null or awa._cause_of(j.errors) = v_cause)
           and (before is null or j.finalized_at < before)
         order by j.id desc
         limit max_jobs - cardinality(job_ids))
      else array(
        select j.id
          from unnest(v_parts) p
         cross join lateral (
            select j.id, j.queue, j.kind, j.state, j.tags, j.args, j.group_key, j.errors, j.finalized_at,
                   j.created_at
              from awa.jobs j
             where j.id >= lower(p) and j.id < upper(p)
            offset 0
          ) j
         where (queue is null or j.queue = queue)
           and (kind is null or j.kind = kind)
           and (states is null or j.state = any(states))
           and (tag is null or j.tags @> array[tag])
           and (args is null or j.args @> args)
           and (group_key is null or j.group_key = group_key)
           and (cause is null or awa._cause_of(j.errors) = v_cause)
           and (before is null or coalesce(j.finalized_at, j.created_at) < before)
         order by j.id desc
         limit max_jobs - cardinality(job_ids)) end;
      if cardinality(job_ids) = max_jobs then
        next_before_id := job_ids[max_jobs];
        return;
      end if;
    end if;
    v_until := v_stretch.from_id;
    v_left := v_left - v_stretch.entries;
    v_length := 2 * v_length;
  end loop;
end
$$;
comment on function awa._scan is
  'The ids of matching jobs, the newest first, at most so many; and where to go on, null at the end';

-- The parts of a stretch of ids that have to be read for the jobs of a queue: one part, or each id where they are few.
-- Why: rows have no names of queues. Where each row's name is looked up, a plan that reads the index of places from one
-- end to the other seems cheap.
create or replace function awa._parts_of_stretch(queue_id bigint, from_id bigint, until_id bigint) returns int8range[]
language plpgsql stable
as $$
#variable_conflict use_variable
declare
  v_ids bigint[] := array(
    select e.job_id from awa.ready_entries e
     where e.job_id >= from_id and e.job_id < until_id and e.lane >> 9 = queue_id
    union
    select d.job_id from awa.deferred_jobs d
     where d.job_id >= from_id and d.job_id < until_id and d.lane >> 9 = queue_id
    union
    select w.job_id from awa.limited_jobs w
     where w.job_id >= from_id and w.job_id < until_id and w.lane >> 9 = queue_id
    union
    select l.job_id from awa.leases l where l.job_id >= from_id and l.job_id < until_id and l.lane >> 9 = queue_id
    union
    select d.job_id from awa.done_entries d
     where d.job_id >= from_id and d.job_id < until_id and d.lane >> 9 = queue_id);
begin
  if v_ids <> '{}' and 10 * cardinality(v_ids) > until_id - from_id then
    return array[int8range(from_id, until_id)];
  end if;
  return array(select int8range(i, i + 1) from unnest(v_ids) i);
end
$$;
comment on function awa._parts_of_stretch is
  'The parts of a stretch of ids that have to be read for the jobs of a queue: one part, or each id where they are few';

-- A stretch of ids before one, of at most such a length and with at most so many entries.
-- Null where there is no room for one. Deleted jobs are not counted: a stretch that has no others is empty, and need
-- not be read.
create or replace function awa._stretch(
  until_id bigint,
  length bigint,
  most bigint,
  out from_id bigint,
  out entries bigint,
  out is_empty boolean
)
language plpgsql stable
as $$
#variable_conflict use_variable
declare
  v_deleted bigint;
begin
  loop
    from_id := greatest(until_id - length, 1);
    select count(*) into v_deleted from awa.deleted_jobs d where d.job_id >= from_id and d.job_id < until_id;
    is_empty := v_deleted >= until_id - from_id;
    entries := 0;
    exit when is_empty;
    select count(*) into entries
      from (
        select from awa.ready_entries e where e.job_id >= from_id and e.job_id < until_id
        union all select from awa.deferred_jobs d where d.job_id >= from_id and d.job_id < until_id
        union all select from awa.limited_jobs w where w.job_id >= from_id and w.job_id < until_id
        union all select from awa.leases l where l.job_id >= from_id and l.job_id < until_id
        union all select from awa.done_entries d where d.job_id >= from_id and d.job_id < until_id
        limit most + v_deleted + 1
      ) e;
    is_empty := entries = 0;
    entries := greatest(entries - v_deleted, 0);
    exit when entries <= most;
    if most < 10000 or length = 1 then
      from_id := null;
      exit;
    end if;
    length := length / 2;
  end loop;
end
$$;
comment on function awa._stretch is
  'A stretch of ids before one, of at most such a length and with at most so many entries';
