-- Without this, files of SQL call each other in circles, and nobody can change one of them alone.
\set name house
\ir ../prelude.psql
begin;
select plan(9);

-- Where each function and each view is defined, and how long it is
create temp table lines (n int generated always as identity, line text);
\copy lines (line) from program 'cd sql/functions && grep -n "" */*.sql | sed "s/\\\\/\\\\\\\\/g"'
create temp table house as
select l.n, split_part(l.line, ':', 1) as file, split_part(split_part(l.line, ':', 1), '/', 1) as folder, m[1] as kind,
       m[2] as name
  from lines l
 cross join lateral regexp_match(l.line, '^[^:]+:[0-9]+:create or replace (function|procedure|view) awa\.(\w+)') m
 where m is not null;
select cmp_ok((select count(*) from house), '>=', 200::bigint, 'the files are found');
select is((select array_agg(distinct h.name order by h.name) from house h where not exists (
    select from pg_proc p where p.pronamespace = 'awa'::regnamespace and p.proname = h.name union all
    select
      from pg_class c
     where c.relnamespace = 'awa'::regnamespace and c.relname = h.name)), null, 'what they define is installed');

-- Who calls whom: without comments and literals, in which hints name functions
create temp table calls as
select o.name as caller, m[1] as callee
  from (
    select p.proname::text as name, coalesce(pg_get_function_sqlbody(p.oid), p.prosrc) as body
      from pg_proc p
     where p.pronamespace = 'awa'::regnamespace
    union all
    select c.relname, pg_get_viewdef(c.oid)
      from pg_class c
     where c.relnamespace = 'awa'::regnamespace and c.relkind = 'v'
  ) o
 cross join lateral regexp_matches(regexp_replace(regexp_replace(o.body, '--[^\n]*', '', 'g'), '''([^'']|'''')*''', '',
   'g'),
   '\mawa\.(\w+)', 'g') m
 group by 1, 2;
select cmp_ok((select count(*) from calls), '>=', 500::bigint, 'calls are found');
create temp view crossings as
select distinct format('%s/%s calls %s/%s', a.folder, c.caller, b.folder, c.callee) as call, a.folder,
       b.folder as callee_folder
  from calls c join house a on a.name = c.caller join house b on b.name = c.callee
 where a.folder <> b.folder and b.folder <> 'engine';
select is((select array_agg(call order by call) from crossings where folder = 'engine'), null,
  'the engine calls no capability');
select is((select array_agg(call order by call) from crossings where folder <> 'engine'),
  '{"maintain/run_pass calls defer/_promote_due","maintain/run_pass calls operate/apply_changes",
    "maintain/run_pass calls schedule/fire_due"}',
  'no capability calls another one, but for the list of passes');

-- Sizes
select is((
  select array_agg(f.file || ' ' || f.lines order by f.file)
    from (select split_part(l.line, ':', 1) as file, count(*) as lines from lines l group by 1) f
   where f.lines > 500
),
  null, 'no file is longer than 500 lines');
select is((select array_agg(f.name || ' ' || f.lines order by f.name)
    from (
      select h.name,
             (
               select min(l.n) from lines l where l.n > h.n and l.line ~ '^[^:]+:[0-9]+:(\$\$;|return .*;|comment on )'
             ) - h.n + 1 as lines
        from house h
       where h.kind <> 'view'
    ) f
   where f.lines > 120), null, 'no function is longer than 120 lines');

-- Tests
create temp table tests (file text);
\copy tests (file) from program 'cd pgtap && ls */*.sql'
select is((select array_agg(distinct l.file order by l.file) from (select split_part(l.line, ':', 1) as file
  from lines l) l
  where l.file not in (select t.file from tests t)), null, 'each file has its tests');
select is((select array_agg(t.file order by t.file) from tests t
  where split_part(t.file, '/', 1) in (select h.folder from house h) and t.file <> 'engine/cron_reference.sql'
    and t.file not in (select split_part(l.line, ':', 1) from lines l)), null, 'and there are no tests of others');

select * from finish();
rollback;
