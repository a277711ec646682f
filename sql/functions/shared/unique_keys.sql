-- Unique keys: which job holds one, in which states.
-- A job carries its key as 34 bytes: a SHA-256, and a bit for each state in which it holds the key.

-- The bit of a state in a key's last two bytes; null when there is no such state.
create or replace function awa._state_bit(state text) returns int
language sql immutable strict parallel safe
return case state
  when 'scheduled' then 1
  when 'available' then 2
  when 'running' then 4
  when 'retryable' then 8
  when 'waiting_external' then 16
  when 'completed' then 32
  when 'failed' then 64
  when 'cancelled' then 128
  when 'dead' then 256
end;
comment on function awa._state_bit is 'The bit of a state in a unique key';

-- Whether a job with this key holds it in a state. In no state at all (null) it does not.
create or replace function awa._holds(unique_key bytea, state text) returns boolean
language sql immutable parallel safe
return coalesce((get_byte(unique_key, 32) << 8 | get_byte(unique_key, 33)) & awa._state_bit(state) <> 0, false);
comment on function awa._holds is 'Whether a job with this key holds it in a state';

-- Lets go of the keys of jobs that go from one state to another in which they do not hold them; takes those that they begin to hold. One that another job has, or is
-- just about to have, stays with that one: nobody should wait here. To no state (null) lets go of all. Keys may be null.
create or replace function awa._move_keys(job_ids bigint[], keys bytea[], from_state text, to_state text) returns void
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_wait text := current_setting('lock_timeout');
  v_job record;
begin
  if keys is null then
    return;
  end if;
  delete from awa.unique_claims u
   using (
      select k.job_id, substr(k.key, 1, 32) as key
        from unnest(job_ids, keys) k(job_id, key)
       where not awa._holds(k.key, to_state)
       order by 2
      offset 0
   ) k
   where u.key = k.key and u.job_id = k.job_id;
  select array_agg(k.job_id order by k.key), array_agg(substr(k.key, 1, 32) order by k.key) into job_ids, keys
    from unnest(job_ids, keys) k(job_id, key)
   where awa._holds(k.key, to_state) and not awa._holds(k.key, from_state);
  if keys is null then
    return;
  end if;
  perform set_config('lock_timeout', '10', true);
  begin
    insert into awa.unique_claims (key, job_id) select k.key, k.job_id from unnest(job_ids, keys) k(job_id, key) order by 1 on conflict do nothing;
  exception when lock_not_available then
    perform set_config('lock_timeout', '1', true);
    for v_job in select k.key, k.job_id from unnest(job_ids, keys) k(job_id, key) loop
      begin
        insert into awa.unique_claims (key, job_id) values (v_job.key, v_job.job_id) on conflict do nothing;
      exception when lock_not_available then
        null;
      end;
    end loop;
  end;
  perform set_config('lock_timeout', v_wait, true);
end
$$;
comment on function awa._move_keys is 'Lets go of the unique keys that jobs do not hold in their new state, and takes those that they do';

-- The job that holds a unique key once this transaction commits; null when there is none. A job that this transaction itself has cancelled, or moved away, while it was available
-- keeps its key until then; the key passes on to its heir, the job that this transaction has enqueued in its place. So there is a line of jobs, each the heir of the one before it. The last
-- one leaves when this transaction has taken the key from it, too.
-- Why: the key and the cancel of the first job are read by one statement. With two of them, a cancel that somebody else commits in between would pass for one of this transaction.
create or replace function awa._holder(key bytea, out job_id bigint, out leaves boolean, out line bigint[])
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_heir bigint;
begin
  select u.job_id, exists (select from awa.done_entries d where d.job_id = u.job_id and d.state = 'cancelled' and not awa._holds(d.unique_key, 'cancelled'))
    into job_id, leaves
    from awa.unique_claims u where u.key = key;
  line := array[job_id];
  while leaves loop
    select t.batch into v_heir from awa.ready_tombstones t where t.lane = -2 and t.xid = pg_current_xact_id_if_assigned() and t.job_id = job_id;
    exit when not found;
    job_id := v_heir;
    line := line || v_heir;
    leaves := not awa._is_holder(v_heir, key);
  end loop;
end
$$;
comment on function awa._holder is 'The job that holds a unique key once this transaction commits';

-- Whether a job is in a state in which it holds a unique key.
create or replace function awa._is_holder(job_id bigint, key bytea) returns boolean
language sql stable
set enable_bitmapscan = on
as $$
  select exists (select from awa._place p where p.id = job_id and substr(p.unique_key, 1, 32) = key and awa._holds(p.unique_key, p.state))
$$;
comment on function awa._is_holder is 'Whether a job is in a state in which it holds a unique key';

-- Takes a unique key for a job, or, for one that does not hold it yet, only looks who has it. Draws the job's id where it has none, and it is needed. Says whether the job may be there;
-- otherwise the id is that of the job that holds the key.
-- Locks: the key, until the transaction ends. Waits for a transaction that is about to take it, or to let go of it.
create or replace function awa._take_key(key bytea, holds boolean, inout job_id bigint, out taken boolean)
language plpgsql
as $$
#variable_conflict use_variable
declare
  v_holder record;
begin
  taken := true;
  loop
    v_holder := awa._holder(key);
    if v_holder.job_id is null or v_holder.leaves then
      job_id := coalesce(job_id, nextval('awa.job_ids'));
      exit when not holds;
      if v_holder.leaves then
        if job_id <> all(v_holder.line) then
          perform awa._decide_later(-2, v_holder.job_id, job_id);
        end if;
        exit;
      end if;
      insert into awa.unique_claims (key, job_id) values (key, job_id) on conflict do nothing; -- waits for who is about to take it
      exit when found;
    elsif v_holder.job_id = job_id then
      exit;
    elsif cardinality(v_holder.line) > 1 then
      taken := false; -- an heir of this transaction
    else
      insert into awa.unique_claims (key, job_id) values (key, v_holder.job_id) on conflict do nothing; -- waits for who is about to let go of it
      if found then
        delete from awa.unique_claims u where u.key = key; -- it did: once more
      else
        taken := (select u.job_id = v_holder.job_id from awa.unique_claims u where u.key = key) is not true;
      end if;
    end if;
    if not taken then
      job_id := v_holder.job_id;
      exit;
    end if;
  end loop;
end
$$;
comment on function awa._take_key is 'Takes a unique key for a job, or says which job holds it';

-- The hash of a unique key. Raises 22023.
create or replace function awa._unique_hash(queue text, kind text, args jsonb, unique_key text, unique_by text[], unique_period interval) returns bytea
language plpgsql
as $$
declare
  v_by text[] := coalesce(unique_by, '{kind,args}');
  v_parts jsonb;
begin
  if not awa._fits(unique_period, '1 millisecond', '10 years') then
    perform awa._refuse('unique_period must be between 1 millisecond and 10 years', unique_period::text, 'Leave it out for a key that holds at any time.');
  end if;
  if unique_key is not null then
    if char_length(unique_key) not between 1 and 10000 then
      perform awa._refuse('unique_key must be 1 to 10000 characters long', unique_key, 'Pass a text that says what there may be one of, or leave it out.');
    end if;
    v_parts := jsonb_build_object('key', unique_key);
  else
    perform awa._check_array('unique_by', v_by, 3);
    if cardinality(v_by) = 0 or not v_by <@ '{queue,kind,args}' then
      perform awa._refuse('unique_by must name queue, kind or args', v_by::text, 'Pass any of the three, such as {kind,args}.');
    end if;
    v_parts := case when 'queue' = any(v_by) then jsonb_build_object('queue', queue) else '{}' end
      || case when 'kind' = any(v_by) then jsonb_build_object('kind', kind) else '{}' end
      || case when 'args' = any(v_by) then jsonb_build_object('args', coalesce(args, '{}')) else '{}' end;
  end if;
  if unique_period is not null then
    v_parts := v_parts || jsonb_build_object('period', extract(epoch from unique_period),
      'number', floor(extract(epoch from clock_timestamp()) / extract(epoch from unique_period)));
  end if;
  return sha256(convert_to(v_parts::text, 'UTF8'));
end
$$;
comment on function awa._unique_hash is 'The hash of a unique key';
