-- Does what is due, in short transactions: promotes, rescues, materializes, expires, rotates, prunes. A step that fails does not keep the others from being done; the first error is raised at the end.
-- Safe to call from anywhere, as often as one likes, every few seconds say; not inside a transaction. Runs as its caller, who needs awa_maintainer: a procedure that commits can't run as its owner.
create or replace procedure awa.run_maintenance()
language plpgsql
as $$
declare
  v_more boolean;
  v_state text;
  v_message text;
  v_detail text;
  v_hint text;
begin
  for v_step in 1..6 loop
    loop
      commit;
      set transaction isolation level read committed;
      begin
        v_more := case v_step
          when 1 then (select p.promoted >= 4096 from awa.promote_due() p)
          when 2 then (select r.rescued >= 1000 from awa.rescue() r)
          when 3 then (select m.materialized >= 1000 from awa.materialize() m)
          when 4 then (select e.expired >= 10000 from awa.expire_history() e)
          when 5 then (select false from awa.rotate() r)
          when 6 then (select p.outcome in ('cleaning', 'cleaned', 'truncating') from awa.prune_oldest() p)
        end;
      exception when others then
        if v_state is null then
          get stacked diagnostics v_state = returned_sqlstate, v_message = message_text, v_detail = pg_exception_detail, v_hint = pg_exception_hint;
        end if;
        v_more := false;
      end;
      exit when not v_more;
    end loop;
  end loop;
  commit;
  if v_state is not null then
    raise exception using errcode = v_state, message = v_message, detail = v_detail, hint = v_hint;
  end if;
end
$$;
comment on procedure awa.run_maintenance is 'Does what maintenance is due, in short transactions';
