-- The entries that count: all, but for those of the segment that was cleaned, which are claimed, buried, or carried to the current segment under the same place.
create or replace view awa._entries as
select e.*
  from awa.ready_entries e
 where e.segment <> coalesce((select r.cleaned_segment from awa.ring r), -1)
    or not pg_visible_in_snapshot(e.xid, (select r.cleaned_until from awa.ring r));
comment on view awa._entries is 'The entries that count: all, but for those of the segment that was cleaned';
