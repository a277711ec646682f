-- Without this, files of SQL call each other in circles, and nobody can change one of them alone.
\set name house
\ir ../prelude.psql
begin;
select plan(14);
\ir bodies.psql

-- Where each function and each view is defined, and how long it is: up to its comment, which each has; blocks, too.
create temp table lines (n int generated always as identity, line text);
\copy lines (line) from program 'cd sql/functions && grep -n "" */*.sql | sed "s/\\\\/\\\\\\\\/g"'
create temp view house as
select l.n, split_part(l.line, ':', 1) as file, split_part(split_part(l.line, ':', 1), '/', 1) as folder,
       coalesce(lower(m[2]), m[3]) as name, m[3] is not null as is_block
  from lines l
 cross join lateral regexp_match(l.line, '^[^:]+:\d+:\s*(?:create\s(?:.*\s)?(function|procedure|view)\s+"?awa"?\s*\.\s*'
   '"?(\w+)|do\s+(\$\w*\$))', 'i') m
 where m is not null;
create temp view sizes as
with ends as materialized (
  select l.n, coalesce(lower(m[1]), m[2]) as name
    from lines l
   cross join lateral regexp_match(l.line, '^[^:]+:\d+:(?:comment on \w+ awa\.(\w+)|(\$\w*\$))') m
)
select case when h.is_block then h.file else h.name end as name, coalesce(min(e.n) - h.n, 9999) as lines
  from house h
  left join ends e on e.name = h.name and e.n > h.n
 group by h.n, h.is_block, h.file, h.name;
select cmp_ok((select count(*) from house), '>=', 700::bigint, 'the files are found');
select is((select array_agg(distinct h.name order by h.name) from house h
            where not h.is_block and h.name not in (select b.name from bodies b)),
  null, 'what they define is installed');
create temp view homeless as
select b.name from bodies b where b.name not in (select h.name from house h);
select is((select array_agg(distinct b.name order by b.name) from homeless b), null, 'and no more than that');
select is((select array_agg(distinct h.name) from (select h.name from house h where not h.is_block
             group by h.name having count(distinct h.file) > 1) h), null, 'each in one file');

-- Who calls whom: without comments and literals, in which hints name functions
create temp view calls as
select distinct b.name as caller, m[1] as callee
  from bodies b
 cross join lateral regexp_matches(b.code, '\mawa\.(\w+)', 'g') m;
select cmp_ok((select count(*) from calls), '>=', 500::bigint, 'calls are found');
create temp view crossings as
with homes as materialized (select distinct h.name, h.folder from house h where not h.is_block)
select distinct format('%s/%s calls %s/%s', a.folder, c.caller, b.folder, c.callee) as call, a.folder,
       b.folder as callee_folder
  from calls c join homes a on a.name = c.caller join homes b on b.name = c.callee
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
select is((select array_agg(s.name || ' ' || s.lines order by s.name) from sizes s where s.lines > 120), null,
  'no function, no view and no block is longer than 120 lines');

-- Tests
create temp table tests (file text);
\copy tests (file) from program 'cd pgtap && ls */*.sql'
select is((select array_agg(distinct l.file order by l.file) from (select split_part(l.line, ':', 1) as file
  from lines l) l
  where l.file not in (select t.file from tests t)), null, 'each file has its tests');
select is((select array_agg(t.file order by t.file) from tests t
  where split_part(t.file, '/', 1) in (select h.folder from house h) and t.file <> 'engine/cron_reference.sql'
    and t.file not in (select split_part(l.line, ':', 1) from lines l)), null, 'and there are no tests of others');

-- Nothing hides a call, or a length
create function awa._fools() returns bigint
language plpgsql
as $$
begin
  perform awa."cancel"(1); -- 'a quoted name'
  perform /* "a" 'dot' */ AWA . retry (1);
  return awa
    .discard(1, 1, 'e');
end
$$;
insert into lines (line)
select 'engine/fools.sql:' || n || ':' || case n
         when 1 then 'create function awa._fools() returns bigint'
         when 3 then 'return 1;'
         when 4 then '$$;'
         when 202 then 'comment on function awa._fools is ''x'';'
         when 203 then 'create or replace recursive view awa."_fools_too" (n) as'
         when 404 then 'do $x$'
         when 405 then '$$;'
         when 606 then '$x$;'
         else ''
       end
  from generate_series(1, 606) n;
select is((select array_agg(call order by call) from crossings where folder = 'engine'),
  '{"engine/_fools calls close/discard","engine/_fools calls operate/cancel","engine/_fools calls operate/retry"}',
  'a call in disguise is found');
select is((select array_agg(s.name || ' ' || s.lines order by s.name) from sizes s where s.lines > 120),
  '{"_fools 201","_fools_too 9999","engine/fools.sql 202"}',
  'and so is a long function with a line that looks like its end, a view, and a block');
create view awa._fools_three as select 1 as n;
select is((select array_agg(distinct b.name order by b.name) from homeless b), '{_fools_three}',
  'or what no file defines');

select * from finish();
rollback;
