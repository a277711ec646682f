-- Runs all passes of maintenance, in short transactions.
-- A pass that another session is running is left to that session. A pass that fails does not keep the others from
-- being run: the first error is raised at the end. The passes take turns, a batch each, for ten seconds at most for
-- each pass, and the next call goes on. Safe to call from anywhere, as often as one likes, every second for example;
-- not inside a transaction.
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
-- They take turns because a backlog of one must not keep the others waiting.
-- By the caller's search_path the server may find functions of others that fit a call better than its own. So the body,
-- and the statement after each commit, begins by setting it, and no default of a variable calls anything.
create or replace procedure awa.run_passes(if_due boolean default true)
language plpgsql
as $$
declare
  v_timeout interval;
  v_end pg_catalog.timestamptz; -- null where there is none
  v_limit interval; -- for each batch; null where there is none
  v_max int;
  v_passes pg_catalog.text[];
  v_first int;
  v_left pg_catalog.text[]; -- that may have more to do
  v_took interval[];
  v_is_first boolean := true; -- the first round
  v_pass pg_catalog.text;
  v_began pg_catalog.timestamptz;
  v_longest interval;
  v_more boolean;
  v_state pg_catalog.text;
  v_message pg_catalog.text;
  v_detail pg_catalog.text;
  v_hint pg_catalog.text;
begin
  set local search_path = pg_catalog, pg_temp; -- before anything that calls a function or an operator
  v_timeout := nullif(current_setting('statement_timeout')::interval, '0');
  v_end := statement_timestamp() + v_timeout;
  v_limit := least(v_timeout, nullif(current_setting('transaction_timeout', true)::interval, '0'));
  v_max := case when v_limit < '10 seconds' then 500 end;
  v_passes := array(select p.pass from awa.passes p order by p.position);
  v_first := case when v_limit is not null then floor(random() * cardinality(v_passes))::int else 0 end;
  v_took := array_fill(interval '0', array[cardinality(v_passes)]);
  v_longest := coalesce(v_timeout / 20, '0');
  v_passes := v_passes[v_first + 1:] || v_passes[:v_first];
  v_left := v_passes;
  <<rounds>>
  while v_left <> '{}' loop
    for v_nth in 1..cardinality(v_passes) loop
      v_pass := v_passes[v_nth];
      continue when v_took[v_nth] > '10 seconds' or v_pass <> all(v_left || '{promote_due,fire_due}');
      commit;
      set transaction isolation level read committed;
      set local search_path = pg_catalog, pg_temp;
      v_began := clock_timestamp();
      exit rounds when v_began + v_longest > v_end;
      begin
        v_more := case
          when v_pass = any(v_left) then awa.run_pass(v_pass, v_max, if_due and v_is_first)
          when awa.pass_due_at(v_pass) <= v_began then awa.run_pass(v_pass, v_max)
        end;
      exception when others then
        if v_state is null then
          get stacked diagnostics v_state = returned_sqlstate, v_message = message_text, v_detail = pg_exception_detail,
          v_hint = pg_exception_hint;
        end if;
        v_more := false;
        v_took[v_nth] := '1 day'; -- the next call tries it again
      end;
      v_took[v_nth] := v_took[v_nth] + (clock_timestamp() - v_began);
      v_longest := greatest(v_longest, clock_timestamp() - v_began);
      v_left := array_remove(v_left, v_pass);
      if v_more and v_took[v_nth] <= '10 seconds' then
        v_left := v_left || v_pass;
      end if;
    end loop;
    v_is_first := false;
  end loop;
  commit;
  if v_state is not null then
    raise exception using errcode = v_state, message = v_message, detail = v_detail, hint = v_hint;
  end if;
end
$$;
comment on procedure awa.run_passes is
  'Runs the passes of maintenance, as run_maintenance does; with if_due those that are due';
