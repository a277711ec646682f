-- Without this, a schedule would come at other times than in Debian's cron, and it would not be noticed: near a change
-- of the clocks, or on days that are rare. The table is made by scripts/cron_reference.py, which says where it is from.
\set name cron_reference
\ir ../prelude.psql

create temp table reference (n int generated always as identity, line text);
\copy reference (line) from 'pgtap/engine/cron_reference.txt'
create temp table triples as
select r.n, p[1] as cron, p[2] as zone, t.next::timestamptz,
  lag(t.next, 1, p[3]) over (partition by r.n order by t.place)::timestamptz as after
  from reference r cross join lateral string_to_array(r.line, '|') p
 cross join lateral string_to_table(p[4], ' ') with ordinality t(next, place)
 where r.line !~ '^#';

begin;
select plan(3);

select cmp_ok((select count(*) from triples), '>=', 3000::bigint, 'there are triples to compare with');
select is((select array_agg(distinct z.zone order by z.zone)
  from unnest('{Europe/Berlin,America/New_York,America/Havana,Australia/Lord_Howe,Antarctica/Troll,Pacific/Chatham,'
      'Pacific/Apia,Africa/Casablanca,CET}'::text[]) z(zone)
    where not exists (select from triples t where t.zone = z.zone)), null,
      'in zones whose clocks change by an hour, half an hour, two hours, at midnight and by a day');
select is((select string_agg(format('%s in %s after %s: %s, not %s', t.cron, t.zone, t.after, f.next, t.next),
  '; ' order by t.n, t.after)
    from (
      select t.*, row_number() over (order by t.n, t.after) as place
        from triples t cross join lateral awa._next_cron(awa._parse_cron(t.cron), awa._zone(t.zone), t.after) f(next)
       where f.next is distinct from t.next
    ) t
   cross join lateral awa._next_cron(awa._parse_cron(t.cron), awa._zone(t.zone), t.after) f(next)
   where t.place <= 10), null, 'each expression comes when the reference says');

select * from finish();
rollback;
