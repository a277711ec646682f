-- Refuses to remove the one row of a table that has to have it: without settings nothing would be claimed, and without ring nothing enqueued.
create or replace function awa._keep_row() returns trigger
language plpgsql
as $$
begin
  raise exception using errcode = '55000', message = format('awa.%s must keep its row', tg_table_name), detail = format('Tried to %s it.', lower(tg_op)),
    hint = 'Update the row instead. Where it is missing, see the reference: "Rows that must be there".';
end
$$;
comment on function awa._keep_row is 'Refuses to remove the one row of a table that has to have it';

do $$
begin
  if (select count(*) from pg_trigger t where t.tgrelid in ('awa.settings'::regclass, 'awa.ring'::regclass) and t.tgname = 'keep_row' and t.tgenabled in ('O', 'A')) < 2 then
    create or replace trigger keep_row before delete or truncate on awa.settings execute function awa._keep_row();
    create or replace trigger keep_row before delete or truncate on awa.ring execute function awa._keep_row();
  end if;
end
$$;

-- The entries that count: all, but for those of the segment that was cleaned, which are claimed, buried, or carried to the current segment under the same place.
create or replace view awa._entries as
select e.*
  from awa.ready_entries e
 where e.segment <> coalesce((select r.cleaned_segment from awa.ring r), -1)
    or not pg_visible_in_snapshot(e.xid, (select r.cleaned_until from awa.ring r));
comment on view awa._entries is 'The entries that count: all, but for those of the segment that was cleaned';
