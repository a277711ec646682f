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
