-- Unique keys: which job holds one, in which states. A job carries its key as 34 bytes: a SHA-256, and a bit for each
-- state in which it holds the key.

-- Whether a job with this key holds it in a state.
-- In no state (null) it does not.
create or replace function awa._holds(unique_key bytea, state text) returns boolean
language sql immutable parallel safe
return coalesce((get_byte(unique_key, 32) << 8 | get_byte(unique_key, 33)) & awa._state_bit(state) <> 0, false);
comment on function awa._holds is 'Whether a job with this key holds it in a state';

-- Until when a job with this key holds it after it has completed; null when the key has no such end.
create or replace function awa._held_until(unique_key bytea) returns timestamptz
language sql immutable parallel safe
return case
  when octet_length(unique_key) > 34
    then to_timestamp(('x' || encode(substr(unique_key, 35, 8), 'hex'))::bit(64)::bigint)
end;
comment on function awa._held_until is
  'Until when a job with this key holds it after it has completed; null when the key has no such end';

-- Lets go of unique keys, and takes them, as jobs go from one state to another.
-- The hook for keys when attempts end, when waiting jobs are promoted, claimed, rescheduled, retried or cancelled, and
-- when they are kept no longer. to_state null: the job goes, and lets go of its key. from_state null: it may hold none
-- yet, whatever its state was, and takes the key that to_state holds. Slots and groups have hooks of their own (see
-- _free_slots, _note_holders). A key that another job has, or is just about to have, stays with that job: no wait here.
-- Callers leave out jobs without a key: all arrays are null where none has one. Keys may be null.
-- Locks: the keys, until the transaction ends, as far as no other session has them.
create or replace function awa._change_state(
  job_ids bigint[],
  lanes bigint[],
  keys bytea[],
  from_state text,
  to_state text
) returns void
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_wait text;
  v_held bigint[];
  v_job record;
begin
  if keys is null then
    return;
  end if;
  if to_state = 'completed' then
    v_held := awa._hold_keys(job_ids, keys, lanes);
    if v_held <> '{}' then
      select array_agg(k.job_id), array_agg(k.key) into job_ids, keys
        from unnest(job_ids, keys) with ordinality k(job_id, key, ordinal)
       where k.ordinal <> all(v_held);
    end if;
  end if;
  perform awa._let_go(array_agg(k.job_id), array_agg(substr(k.key, 1, 32)))
     from unnest(job_ids, keys) k(job_id, key)
    where not awa._holds(k.key, to_state);
  select array_agg(k.job_id order by k.key), array_agg(substr(k.key, 1, 32) order by k.key) into job_ids, keys
    from unnest(job_ids, keys) k(job_id, key)
   where awa._holds(k.key, to_state) and not awa._holds(k.key, from_state);
  if keys is null then
    return;
  end if;
  v_wait := current_setting('lock_timeout');
  perform set_config('lock_timeout', '10', true);
  begin
    perform awa._take_key(k.key, true, k.job_id) from unnest(job_ids, keys) k(job_id, key);
  exception when lock_not_available then
    perform set_config('lock_timeout', '1', true);
    for v_job in select k.key, k.job_id from unnest(job_ids, keys) k(job_id, key) loop
      begin
        perform awa._take_key(v_job.key, true, v_job.job_id);
      exception when lock_not_available then
        null;
      end;
    end loop;
  end;
  perform set_config('lock_timeout', v_wait, true);
end
$$;
comment on function awa._change_state is
  'Lets go of unique keys, and takes them, as jobs go from one state to another';

-- Lets go of unique keys, where these jobs hold them and have not completed.
-- Why: a deleted row stays in the way of each look for its key, for as long as some snapshot is older. So a key that is
-- let go of gets a second row, one time in sixteen. That row stays until no snapshot is older than its last use, and
-- changes its place each time. A second row each time would cost the many keys that are used once.
create or replace function awa._let_go(job_ids bigint[], keys bytea[]) returns void
language plpgsql
as $$
declare
  v_gone bigint;
begin
  if keys is null then
    return;
  end if;
  -- Each row is looked for by itself: a join might read all keys.
  with once as materialized (
    select u.key, u.round
      from unnest(keys, job_ids) k(key, job_id)
     cross join lateral (
        select * from awa.unique_claims u where u.key = k.key and u.round = 0 offset 0
      ) u
     where u.job_id = k.job_id and u.held_until is null and random() * 16 >= 1
     order by u.key
  ), gone as (
    delete from awa.unique_claims u using once o where u.key = o.key and u.round = o.round returning 1
  )
  select count(*) into v_gone from gone;
  if v_gone = cardinality(keys) then
    return;
  end if;
  with held as materialized (
    select u.key, u.round
      from unnest(keys, job_ids) k(key, job_id)
     cross join lateral (
        select * from awa.unique_claims u where u.key = k.key order by u.round desc limit 1
      ) u
     where u.job_id = k.job_id and u.held_until is null
     order by u.key
  ), second as (
    insert into awa.unique_claims (key, round, free_since)
    select h.key, nextval('awa.claim_ids'), pg_current_xact_id()
      from held h
     where h.round = 0
  )
  update awa.unique_claims u
     set job_id = null,
         round = case when u.round > 0 then nextval('awa.claim_ids') else 0 end,
         free_since = case when u.round > 0 then pg_current_xact_id() end
    from held h
   where u.key = h.key and u.round = h.round;
end
$$;
comment on function awa._let_go is 'Lets go of unique keys, where these jobs hold them and have not completed';

-- Lets go of all unique keys of jobs, also of those that they hold to the end of a period.
-- Keys may be null.
-- Locks: the rows of the keys, in their order, until the transaction ends.
create or replace function awa._let_go_of_all(job_ids bigint[], keys bytea[]) returns void
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_job record;
  v_held bytea[] := '{}';
begin
  perform awa._let_go(array_agg(k.job_id), array_agg(substr(k.key, 1, 32))) from unnest(job_ids, keys) k(job_id, key);
  for v_job in
    select k.job_id, substr(k.key, 1, 32) as key
      from unnest(job_ids, keys) k(job_id, key)
     where awa._held_until(k.key) is not null
     order by 2
  loop
    perform
       from awa.unique_claims u
      where u.key = v_job.key and u.job_id = v_job.job_id and u.held_until is not null
        for update;
    if found then
      v_held := v_held || v_job.key;
    end if;
  end loop;
  perform awa._free_keys(v_held);
end
$$;
comment on function awa._let_go_of_all is
  'Lets go of all unique keys of jobs, also of those that they hold to the end of a period';

-- How long a completed job has its key past the end of its period.
-- Why: a session that has asked before the end may be on its way, or wait, and has to find the job of that period.
create or replace function awa._key_grace() returns interval
language sql immutable
return interval '1 minute';
comment on function awa._key_grace is 'How long a completed job has its key past the end of its period';

-- Notes until when the keys of completed jobs are held; returns the ordinals of those that are held.
create or replace function awa._hold_keys(job_ids bigint[], keys bytea[], lanes bigint[]) returns bigint[]
language sql
as $$
  with held as (
    select k.*, awa._held_until(k.key) as until
      from unnest(job_ids, keys, lanes) with ordinality k(job_id, key, lane, ordinal)
     where awa._held_until(k.key) > clock_timestamp() - awa._key_grace()
     order by k.key
  ), noted as (
    update awa.unique_claims u
       set held_until = k.until, queue_id = awa._queue_of(k.lane)
      from held k
     where u.key = substr(k.key, 1, 32)
       and u.round = (
        select n.round from awa.unique_claims n where n.key = substr(k.key, 1, 32) order by n.round desc limit 1
      )
       and u.job_id = k.job_id
  )
  select array(select k.ordinal from held k)
$$;
comment on function awa._hold_keys is
  'Notes until when the keys of completed jobs are held; returns the ordinals of those that are held';

-- Lets go of keys whose period is over, and removes the rows of keys that no job holds, at most 2,000 of each kind.
-- Both rows of a key are removed.
-- Locks: these rows, until the transaction ends. Skips rows that others hold.
-- Why: a key that is in use under an old snapshot keeps its second row. Without it, each look would go over all
-- versions that this row ever had.
create or replace function awa._expire_keys() returns void
language plpgsql
as $$
declare
  v_horizon xid8 := awa._horizon();
begin
  perform awa._free_keys(
    array(
      select u.key
        from awa.unique_claims u
       where u.held_until <= (select clock_timestamp()) - awa._key_grace()
       order by u.held_until
       limit 2000
         for update skip locked
    )
  );
  delete from awa.unique_claims u
   where u.key = any(
     array(
       select f.key
         from awa.unique_claims f
        where f.free_since < v_horizon
        order by f.free_since
        limit 2000
          for update skip locked
     )
   );
end
$$;
comment on function awa._expire_keys is
  'Lets go of keys whose period is over, and removes the rows of keys that no job holds, at most 2,000 of each kind';

-- Lets go of the keys of completed jobs, whose rows the caller has locked.
create or replace function awa._free_keys(keys bytea[]) returns void
language sql
as $$
  with once as (
    delete from awa.unique_claims u where u.key = any(keys) and u.round = 0 and u.job_id is not null
  )
  update awa.unique_claims u
     set job_id = null, queue_id = null, held_until = null, round = nextval('awa.claim_ids'),
         free_since = pg_current_xact_id()
   where u.key = any(keys) and u.round > 0
$$;
comment on function awa._free_keys is 'Lets go of the keys of completed jobs, whose rows the caller has locked';

-- The job that holds a unique key once this transaction commits; null when there is none.
-- now: the time of the caller's question, by which it has chosen the period, so that the period ends for both at once.
-- A job that this transaction itself has cancelled, or moved away, while it was available keeps its key until the
-- commit. Then the key passes on to its heir: the job that this transaction has enqueued in its place. So there is a
-- line of jobs, each the heir of the one before it. The last one leaves when this transaction has taken the key from
-- it, too. ended: the job has completed, and the key is held to the end of its period. round: of the row that counts.
-- Why: one statement reads the key and the cancel of the first job. With two of them, a cancel that another session
-- commits in between would pass for one of this transaction.
create or replace function awa._holder(
  key bytea,
  now timestamptz default clock_timestamp(),
  out job_id bigint,
  out leaves boolean,
  out ended boolean,
  out round bigint,
  out line bigint[]
)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_own xid8 := pg_current_xact_id_if_assigned();
  v_heirs bigint[];
begin
  select u.round, case when u.held_until <= now then null else u.job_id end, u.held_until is not null,
         exists (
           select
             from awa.done_entries d
            where d.job_id = u.job_id and awa._is_cancel(d.state, d.receipt) and not awa._holds(d.unique_key, d.state)
         )
    into round, job_id, ended, leaves
    from (select * from awa.unique_claims u where u.key = key order by u.round desc limit 1) u;
  if job_id is null or ended then
    leaves := false;
  elsif not leaves and v_own is not null then
    begin
      leaves := exists (
        select
          from (select * from awa.ready_tombstones t where t.by_xid = v_own offset 0) t
         where t.job_id = job_id and not t.cancels
      ) and not awa._is_holder(job_id, key);
      raise sqlstate 'JQ999'; -- see _look_up
    exception when sqlstate 'JQ999' then
      null;
    end;
  end if;
  line := array[job_id];
  while leaves loop
    -- Those that this transaction has cancelled are passed over at once: the line may be long.
    with recursive heirs(job_id, n) as (
      select h.heir_id, 1 from awa.heirs h where h.xid = v_own and h.job_id = job_id
      union all
      select h.heir_id, l.n + 1
        from heirs l
       cross join lateral (select * from awa.heirs h where h.xid = v_own and h.job_id = l.job_id offset 0) h
       where exists (
         select
           from awa.done_entries d
          where d.job_id = l.job_id and awa._is_cancel(d.state, d.receipt) and not awa._holds(d.unique_key, d.state)
       )
    )
    select array_agg(h.job_id order by h.n) into v_heirs from heirs h;
    exit when v_heirs is null;
    line := line || v_heirs;
    job_id := line[cardinality(line)];
    leaves := exists (
      select
        from awa.done_entries d
       where d.job_id = job_id and awa._is_cancel(d.state, d.receipt) and not awa._holds(d.unique_key, d.state)
    );
    if not leaves then -- looks for it everywhere, so each time that the key was used would cost milliseconds
      leaves := not awa._is_holder(job_id, key);
    end if;
  end loop;
end
$$;
comment on function awa._holder is
  'The job that holds a unique key once this transaction commits; null when there is none';

-- Whether a job is in a state in which it holds a unique key.
create or replace function awa._is_holder(job_id bigint, key bytea) returns boolean
language plpgsql stable
set enable_bitmapscan = on
as $$
#variable_conflict use_variable
declare
  v_is_holder boolean;
begin
  v_is_holder := exists (
    select
      from awa._place p
     where p.id = job_id and substr(p.unique_key, 1, 32) = key and awa._holds(p.unique_key, p.state)
  );
  raise sqlstate 'JQ999'; -- see _look_up
exception when sqlstate 'JQ999' then
  return v_is_holder;
end
$$;
comment on function awa._is_holder is 'Whether a job is in a state in which it holds a unique key';

-- Takes a unique key for a job where it has no row of this round; returns whether it has.
-- Locks: waits for a transaction that is adding such a row, or removing it.
create or replace function awa._try_key(key bytea, job_id bigint, round bigint default 0) returns boolean
language plpgsql
as $$
#variable_conflict use_variable
begin
  insert into awa.unique_claims (key, round, job_id) values (key, round, job_id) on conflict do nothing;
  return found;
end
$$;
comment on function awa._try_key is
  'Takes a unique key for a job where it has no row of this round; returns whether it has';

-- Takes a unique key for a job, or finds the job that holds it.
-- For a job that does not hold the key yet, only looks for the holder. Draws the job's id where it has none, and needs
-- one. now: as for _holder, also after a wait.
-- Returns whether the job may exist, and its id; otherwise the id of the job that holds the key.
-- Locks: the key, until the transaction ends. Waits for a transaction that is about to take it, or to let go of it.
create or replace function awa._take_key(
  key bytea,
  holds boolean,
  inout job_id bigint,
  now timestamptz default clock_timestamp(),
  out taken boolean
)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_holder record;
begin
  taken := true;
  loop
    v_holder := awa._holder(key, now);
    if v_holder.job_id is null or v_holder.leaves then
      job_id := coalesce(job_id, nextval('awa.job_ids'));
      exit when not holds;
      if v_holder.leaves then
        if job_id <> all(v_holder.line) then
          insert into awa.heirs (job_id, heir_id) values (v_holder.job_id, job_id);
        end if;
        exit;
      end if;
      -- waits for a transaction that is about to take it
      if v_holder.round is null then
        exit when awa._try_key(key, job_id);
      else
        update awa.unique_claims u
           set job_id = job_id, held_until = null, free_since = null, queue_id = null,
               round = case when u.round > 0 then nextval('awa.claim_ids') else 0 end
         where u.key = key and u.round = v_holder.round and (u.free_since is not null or u.held_until <= now);
        exit when found;
      end if;
    elsif v_holder.job_id = job_id then
      exit;
    elsif cardinality(v_holder.line) > 1 then
      taken := false; -- an heir of this transaction
    else
      -- waits for a transaction that is about to let go of it
      if awa._try_key(key, v_holder.job_id, v_holder.round) then
        delete from awa.unique_claims u where u.key = key and u.round = v_holder.round; -- it did: once more
      else
        taken := (awa._holder(key, now)).job_id is distinct from v_holder.job_id;
      end if;
    end if;
    if not taken then
      job_id := v_holder.job_id;
      exit;
    end if;
  end loop;
end
$$;
comment on function awa._take_key is 'Takes a unique key for a job, or finds the job that holds it';
