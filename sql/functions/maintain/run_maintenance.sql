-- Runs all passes of maintenance, in short transactions.
-- A pass that another session is running is left to that session. A pass that fails does not keep the others from
-- being run: the first error is raised at the end. Each pass is run in batches, for ten seconds at most, and the next
-- call goes on. Safe to call from anywhere, as often as one likes, every second for example; not inside a transaction.
-- Raises the first error of a pass, at the end.
create or replace procedure awa.run_maintenance()
language plpgsql
as $$
begin
  call awa.run_passes(false);
end
$$;
comment on procedure awa.run_maintenance is 'Runs all passes of maintenance, in short transactions';

-- Runs the passes of maintenance, as run_maintenance does; with if_due those that are due.
-- A pass is due unless it has succeeded within its period, in any session, and left no work: see run_pass.
-- Raises the first error of a pass, at the end.
-- Why: ten workers that do each pass ten times would read the same rows ten times. A procedure that commits can't run
-- as its owner. So this one runs as its caller, who needs awa_maintainer. A statement_timeout of the caller counts
-- from the beginning of the CALL, and can't be changed inside. So the passes share that time, begin at a random pass,
-- and take smaller batches, and no batch begins when less time is left than the longest batch so far has taken.
create or replace procedure awa.run_passes(if_due boolean default true)
language plpgsql
as $$
declare
  v_timeout interval := nullif(current_setting('statement_timeout')::interval, '0');
  v_end timestamptz := statement_timestamp() + v_timeout; -- null where there is none
  -- that one holds for each batch
  v_is_short boolean := coalesce(least(v_timeout,
    nullif(current_setting('transaction_timeout', true)::interval, '0')) < '10 seconds',
    false);
  v_max int := case when v_is_short then 500 end;
  v_passes text[] := array(select p.pass from awa.passes p order by p.position);
  v_first int := case when v_is_short then floor(random() * cardinality(v_passes))::int else 0 end;
  v_pass text;
  v_until timestamptz;
  v_began timestamptz;
  v_longest interval := coalesce(v_timeout / 20, '0');
  v_is_first boolean; -- the first batch of a pass
  v_more boolean;
  v_state text;
  v_message text;
  v_detail text;
  v_hint text;
begin
  for v_nth in 1..cardinality(v_passes) loop
    v_pass := v_passes[1 + (v_first + v_nth - 1) % cardinality(v_passes)];
    v_until := least(clock_timestamp() + interval '10 seconds',
      clock_timestamp() + (v_end - clock_timestamp()) / (cardinality(v_passes) + 1 - v_nth));
    v_is_first := true;
    loop
      commit;
      set transaction isolation level read committed;
      v_began := clock_timestamp();
      exit when v_began + v_longest > v_end;
      begin
        v_more := awa.run_pass(v_pass, v_max, if_due and v_is_first);
        v_is_first := false;
      exception when others then
        if v_state is null then
          get stacked diagnostics v_state = returned_sqlstate, v_message = message_text, v_detail = pg_exception_detail,
          v_hint = pg_exception_hint;
        end if;
        v_more := false;
      end;
      v_longest := greatest(v_longest, clock_timestamp() - v_began);
      exit when not v_more or clock_timestamp() > v_until;
    end loop;
  end loop;
  commit;
  if v_state is not null then
    raise exception using errcode = v_state, message = v_message, detail = v_detail, hint = v_hint;
  end if;
end
$$;
comment on procedure awa.run_passes is
  'Runs the passes of maintenance, as run_maintenance does; with if_due those that are due';
