-- The row that list_groups returns, one per group.
create or replace view awa.list_groups_row as
select g.group_key, 0 as running, w.job_id as waiting, w.ready_at as oldest_waiting_at, w.ready_at as next_at,
       g.paused_at, g.paused_until, g.reason
  from awa.limited_jobs w, awa.group_settings g
 where false;
comment on view awa.list_groups_row is
  'The row that list_groups returns, one per group. The view itself is always empty';

-- Groups of a queue with limits: those that run, wait, are reserved for a job or paused, or have limits of their own.
-- A page, in the order of the hashes of their keys; after_key: that of the last group of the page before. Of a group
-- whose jobs no claim has come to, nothing is known.
-- Returns how many of its jobs run; how many wait in its line, at most 10,001, and since when the first of these; when
-- the next one may begin, where a time is known: the end of its pause, its rate, or the time of the job for which it is
-- reserved; its pause; and why it is paused, or for which job it is reserved.
-- Raises 22023, JQ002.
-- Why: in that order a page reads only its own groups, and those that are idle, until maintenance removes these.
create or replace function awa.list_groups(
  queue text,
  after_key text default null,
  max_groups int default 100
) returns setof awa.list_groups_row
language plpgsql stable
security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
#variable_conflict use_column
declare
  v_queue_id bigint := awa._require_queue(queue);
  v_now timestamptz := clock_timestamp();
begin
  perform awa._check_group(after_key, 'after_key');
  if coalesce(max_groups, 100) not between 1 and 1000 then
    perform awa._refuse('max_groups must be between 1 and 1000', max_groups::text, 'Read page by page.');
  end if;
  return query
    with settings as materialized (
      select s from awa.queue_settings s where s.queue_id = v_queue_id
    ), page as materialized (
      select * from awa._groups_after(v_queue_id, awa._group_id(after_key), coalesce(max_groups, 100))
    ), running as materialized (
      select r.group_key, awa._group_id(r.group_key) as group_id, count(*)::int as jobs
        from awa._running r
       where r.queue_id = v_queue_id and r.group_key is not null
       group by r.group_key
    )
    select k.group_key, coalesce(r.jobs, 0), w.jobs, w.ready_at,
           case
             when t.is_paused then t.paused_until
             when h.run_at > v_now then h.run_at
             when g.at > v_now then g.at
           end, case when t.is_paused then o.paused_at end, case when t.is_paused then o.paused_until end,
           case when t.is_paused then o.reason when s.holder is not null then awa._holder_in_words(s.holder) end
      from page p
      left join settings q on true
      left join awa.group_settings o on o.queue_id = v_queue_id and o.group_id = p.group_id
     cross join lateral awa._group_terms(q.s, v_queue_id, p.group_id, true, v_now) t
      left join running r on r.group_id = p.group_id
      left join lateral awa._group_state(p.shard, p.group_id) s on true
      left join lateral (
        select j.group_key, j.run_at from awa.jobs j where j.id = s.holder limit 1
      ) h on true
     cross join lateral (
        select count(*) as jobs, min(w.ready_at) as ready_at, min(w.group_key) as group_key
          from (
            select * from awa.limited_jobs w where w.shard = p.shard and w.group_id = p.group_id limit 10001
          ) w
      ) w
     cross join lateral (
        select awa._rate_opens_at(t.rate, awa._rate_after(t.rate, s.next_at, v_now, 0)) as at
      ) g
     cross join lateral (
        select coalesce(o.group_key, r.group_key, w.group_key, h.group_key) as group_key
      ) k
     where k.group_key is not null
     order by p.group_id;
end
$$;
comment on function awa.list_groups is
  'Groups of a queue with limits: those that run, wait, are reserved for a job or paused, or have limits of their own';

-- The first groups of a queue that are not idle, or have a row of settings, with an id above this one.
create or replace function awa._groups_after(
  queue_id bigint,
  after_id bigint,
  max_groups int
) returns table (group_id bigint, shard bigint)
language sql stable
as $$
  with recursive shards as materialized (
    select distinct awa._shard_of(l.lane) as shard from awa._lanes_of(_groups_after.queue_id) l
  ), groups as (
    select s.shard, after_id as group_id, false as is_busy, 0 as found from shards s
    union all
    select g.shard, n.group_id, b.is_busy, g.found + b.is_busy::int
      from groups g
     cross join lateral (
        select s.group_id
          from awa.group_states s
         where s.shard = g.shard and s.group_id > coalesce(g.group_id, -9223372036854775808)
         order by s.group_id
         limit 1
      ) n
     cross join lateral (
        select s.running > 0 or s.has_line or s.has_front or s.holder is not null as is_busy
          from awa._group_state(g.shard, n.group_id) s
      ) b
     where g.found < max_groups
  )
  select f.group_id, max(f.shard)
    from (
      select g.group_id, g.shard from groups g where g.is_busy
      union all
      (
        select s.group_id, _groups_after.queue_id << 6
            | (awa._group_bits(s.group_key) % coalesce((
                 select q.shards from awa.queue_settings q where q.queue_id = _groups_after.queue_id), 1))
          from awa.group_settings s
         where s.queue_id = _groups_after.queue_id and s.group_id > coalesce(after_id, -9223372036854775808)
           and (s.paused_at is null or s.paused_until > clock_timestamp() or s.paused_until is null
             or num_nonnulls(s.group_max_running, s.group_rate) > 0)
         order by s.group_id
         limit max_groups
      )
    ) f
   group by f.group_id
   order by f.group_id
   limit max_groups
$$;
comment on function awa._groups_after is
  'The first groups of a queue that are not idle, or have a row of settings, with an id above this one';
