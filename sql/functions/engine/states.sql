-- The states of a job, and the properties of each.

-- The states of a job that share a property.
-- known: all of them. live: it has not ended; by default it holds a unique key. ended. cancellable: by cancel_where.
-- retriable: by retry_where. after_failure: the job may be in it after an attempt that failed. holds_group: where the
-- jobs of a group go in order, the group may be reserved for it. The table that holds the job: logged: ready_entries,
-- with claims and closures; deferred: deferred_jobs; done: done_entries alone. counted_as_running and so on: the column
-- of queue_counts that counts them. failed_retention and so on: the setting that says how long they are kept.
-- Why: the position of a state is its bit in a unique key, so a new one comes last. There is room for 14. Other
-- functions ask for a fact, and do not list states: a lint says so.
create or replace function awa._states(fact text) returns text[]
language sql immutable parallel safe
as $$
  select array_agg(s.state order by s.position)
    from (values
      (1, 'scheduled',        true,  true,  false, true,  'deferred', 'scheduled',        null),
      (2, 'available',        true,  false, false, true,  'logged',   'available',        null),
      (3, 'running',          true,  false, false, false, 'logged',   'running',          null),
      (4, 'retryable',        true,  true,  true,  true,  'deferred', 'retryable',        null),
      (5, 'waiting_external', true,  false, false, true,  null,       'waiting_external', null), -- reserved
      (6, 'completed',        false, false, false, false, 'logged',   'completed',        'completed_retention'),
      (7, 'failed',           false, true,  true,  true,  'done',     'failed',           'failed_retention'),
      (8, 'cancelled',        false, true,  false, false, 'done',     'cancelled',        'failed_retention'),
      (9, 'dead',             false, true,  true,  true,  'done',     'dead',             'dlq_retention')
    ) s(position, state, is_live, is_retriable, is_after_failure, holds_group, held_in, counted_as, kept_for)
   where case fact
     when 'known' then true
     when 'live' then s.is_live
     when 'cancellable' then s.is_live
     when 'ended' then not s.is_live
     when 'retriable' then s.is_retriable
     when 'after_failure' then s.is_after_failure
     when 'holds_group' then s.holds_group
     else fact in (s.held_in, 'counted_as_' || s.counted_as, s.kept_for)
   end
$$;
comment on function awa._states is 'The states of a job that share a property';

-- The bit of a state in a unique key; null for an unknown state.
create or replace function awa._state_bit(state text) returns int
language sql immutable parallel safe
return 1 << (array_position(awa._states('known'), state) - 1);
comment on function awa._state_bit is 'The bit of a state in a unique key; null for an unknown state';
