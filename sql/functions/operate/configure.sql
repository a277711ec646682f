-- Changes settings of the installation.
-- Settings that are not named stay; null brings a default back. configuration() lists them, with their ranges. A
-- queue's own completed_retention may be longer afterwards: then the shorter one holds.
-- Locks: the settings, until the transaction ends; only other changes of them wait, for claim_wait at most.
-- Raises 22023; 55000 when the row of awa.settings is missing; 55P03, and names the holder.
create or replace function awa.configure(settings jsonb) returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = 0
as $$
#variable_conflict use_variable
declare
  v_named jsonb := awa._checked_settings(false, settings);
  v_checked jsonb;
begin
  v_checked := v_named || coalesce((
    select jsonb_object_agg(k.name, k.default_value)
      from awa._known_settings k
     where not k.of_queue and v_named -> k.name = 'null'), '{}');
  perform awa._bound_waits();
  begin
    perform from awa.settings s for no key update;
  exception when lock_not_available then
    perform awa._refuse_wait(array['awa.settings']::regclass[], 'the settings are being changed by another session',
      'configure holds them until its transaction ends: let that end, and try again.');
  end;
  update awa.settings s
     set (claim_wait, claim_bytes, segment_bytes, segment_age, completed_retention, carry_max, prune_wait,
          notifications, warn_ready_age, warn_failed_share, warn_silence, warn_transaction_age,
          warn_group_age)
       = (select r.claim_wait, r.claim_bytes, r.segment_bytes, r.segment_age, r.completed_retention, r.carry_max,
                 r.prune_wait, r.notifications, r.warn_ready_age, r.warn_failed_share, r.warn_silence,
                 r.warn_transaction_age, r.warn_group_age
            from jsonb_populate_record(s, v_checked) r);
  if not found then
    perform awa._refuse_missing('settings');
  end if;
  perform awa._note_change('configure', '{}', jsonb_build_object('settings', v_named), 0);
end
$$;
comment on function awa.configure is 'Changes settings of the installation';
