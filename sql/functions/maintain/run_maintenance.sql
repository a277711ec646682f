-- Does what is due, each step in a transaction of its own: promotes, rescues, materializes, expires, rotates, prunes. Safe to call from anywhere, as often as one likes; not inside a transaction.
-- Runs as its caller, who needs awa_maintainer: a procedure that commits can't run as its owner.
create or replace procedure awa.run_maintenance()
language plpgsql
as $$
declare
  v_outcome text;
begin
  perform awa.promote_due();
  commit;
  perform awa.rescue();
  commit;
  perform awa.materialize();
  commit;
  perform awa.expire_history();
  commit;
  perform awa.rotate();
  commit;
  loop
    select p.outcome into v_outcome from awa.prune_oldest() p;
    commit;
    exit when v_outcome not in ('cleaned', 'truncating');
  end loop;
end
$$;
comment on procedure awa.run_maintenance is 'Does what maintenance is due, each step in a transaction of its own';
