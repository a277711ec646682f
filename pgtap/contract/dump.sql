-- A dump holds the text of views, and of functions with a body in standard SQL, as the server writes it. The server
-- reads that text as what it was, or awa doctor takes what was restored for something else.
\set name dump
\ir ../prelude.psql
begin;
select plan(2);

create temp table before as
select p.oid::regprocedure as routine, pg_get_function_sqlbody(p.oid) as body, pg_get_functiondef(p.oid) as definition
  from pg_proc p
 where p.pronamespace = 'awa'::regnamespace and p.prosqlbody is not null;
do $$
declare
  v_definition text;
begin
  for v_definition in select b.definition from before b loop
    execute v_definition;
  end loop;
end $$;
select is(
  (select array_agg(b.routine::text order by b.routine::text)
     from before b
    where b.body is distinct from pg_get_function_sqlbody(b.routine)),
  null, 'functions are read from a dump as they were');

create temp table views as
select c.oid::regclass as view, pg_get_viewdef(c.oid) as definition, null::text as restored
  from pg_class c
 where c.relnamespace = 'awa'::regnamespace and c.relkind = 'v';
do $$
declare
  v_view record;
begin
  for v_view in select * from views loop
    execute format('create temp view restored as %s', v_view.definition);
    update views v set restored = pg_get_viewdef('pg_temp.restored'::regclass) where v.view = v_view.view;
    drop view pg_temp.restored;
  end loop;
end $$;
select is(
  (select array_agg(v.view::text order by v.view::text) from views v where v.definition is distinct from v.restored),
  null, 'views are read from a dump as they were');

select * from finish();
rollback;
