-- How much history takes: from what was written since the segment before the last was begun (the begin of the oldest of
-- four is not known).
-- Three segments that are left have to span the retention, for the fourth to stay as large as they are.
with segments as (
  select n as back, r.left_at[r.current_segment + 1] as begun,
         r.left_at[(r.current_segment + 4 - n) % 4 + 1] as left_at,
         r.left_at[(r.current_segment + 3 - n) % 4 + 1] as left_before,
         z.bytes, z.entry_bytes
    from awa.ring r
   cross join generate_series(0, 3) n
   cross join lateral (
      select sum(pg_total_relation_size(c.oid)) as bytes,
             sum(pg_relation_size(c.oid)) filter (where c.relname ~ '^ready_entries_') as entry_bytes
        from pg_class c
       where c.relnamespace = (select n.oid from pg_namespace n where n.nspname = 'awa')
         and c.relispartition
         and c.relkind = 'r'
         and right(c.relname, 2) = format('_%s', (r.current_segment + 4 - n) % 4)
    ) z
   where z.entry_bytes > 0
), rate as (
  select sum(g.bytes) / t.hours as bytes, sum(g.entry_bytes) / t.hours as entry_bytes
    from segments g
   cross join (
      select extract(
        epoch from clock_timestamp() - min(case g.back when 0 then g.begun else g.left_before end)
      ) / 3600 as hours
        from segments g
       where g.back < 3
    ) t
   where g.back < 3 and t.hours >= 1
   group by t.hours
), needs as (
  select s.*, extract(epoch from s.completed_retention) / 3600 as hours, r.bytes, r.entry_bytes,
         least(extract(epoch from s.segment_age) / 3600, s.segment_bytes / nullif(r.entry_bytes, 0)) as segment_hours
    from awa.settings s, rate r
)
select 'ok' as level, '' as subject,
       format('%s in segments, %s an hour; completed_retention = %s will take about %s',
         pg_size_pretty((select sum(g.bytes) from segments g)), pg_size_pretty(n.bytes::bigint), n.completed_retention,
         pg_size_pretty((n.bytes * (n.hours + n.segment_hours))::bigint)) as message, '' as hint
  from needs n
union all
select 'warning', 'ring',
       format('full: three segments are within completed_retention (%s), and the current one has grown to %s in %s',
         s.completed_retention, pg_size_pretty(g.entry_bytes), date_trunc('second', clock_timestamp() - g.begun)),
       concat('It costs disk: history is removed a segment at a time. ',
         coalesce(
           format('For the load of late, set segment_bytes to %s and segment_age to %s or more with awa.configure, or ',
         (select (ceil(n.entry_bytes * n.hours / 3 / 1048576) * 1048576)::bigint from needs n),
         s.completed_retention / 3), 'Raise segment_bytes or segment_age with awa.configure, or '),
         'lower completed_retention.')
  from awa.settings s
  join segments g on g.back = 0
  join segments o on o.back = 3
 where o.left_at > clock_timestamp() - s.completed_retention
   and (g.entry_bytes >= 2 * s.segment_bytes or g.begun <= clock_timestamp() - 2 * s.segment_age)
