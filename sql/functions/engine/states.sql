-- The states of a job, and what follows from each.

-- The states of a job that share a property.
-- known: all of them. live: it has not ended; by default it holds a unique key. ended. cancellable: by cancel_where.
-- retriable: by retry_where.
-- Why: the place of a state is its bit in a unique key, so a new one comes last. There is room for 15.
create or replace function awa._states(fact text) returns text[]
language sql immutable parallel safe
as $$
  select array_agg(s.state order by s.place)
    from (values
      (1, 'scheduled',        true,  true),
      (2, 'available',        true,  false),
      (3, 'running',          true,  false),
      (4, 'retryable',        true,  true),
      (5, 'waiting_external', true,  false),
      (6, 'completed',        false, false),
      (7, 'failed',           false, true),
      (8, 'cancelled',        false, true),
      (9, 'dead',             false, true)
    ) s(place, state, is_live, is_retriable)
   where case fact
     when 'known' then true
     when 'live' then s.is_live
     when 'cancellable' then s.is_live
     when 'ended' then not s.is_live
     when 'retriable' then s.is_retriable
   end
$$;
comment on function awa._states is 'The states of a job that share a property';

-- The bit of a state in a unique key; null for an unknown state.
create or replace function awa._state_bit(state text) returns int
language sql immutable parallel safe
return 1 << (array_position(awa._states('known'), state) - 1);
comment on function awa._state_bit is 'The bit of a state in a unique key; null for an unknown state';
