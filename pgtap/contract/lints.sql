-- Without this, a function could be run with another role's search_path, be executable by everybody, or get a plan for
-- the statistics of a moment.
\set name lints
\ir ../prelude.psql

create temp view functions as
select p.*, p.oid::regprocedure::text as signature, p.proname ~ '^_' as private
  from pg_proc p
 where p.pronamespace = 'awa'::regnamespace;
-- Partitions are their parents, and sequences of identity columns their columns: neither is anybody's to look at.
create temp view relations as
select c.* from pg_class c
 where c.relnamespace = 'awa'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'S', 'f') and not c.relispartition
   and not exists (
    select
      from pg_depend d
     where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'i' and c.relkind = 'S'
  );

begin;
select plan(48);
\ir bodies.psql

select cmp_ok((select count(*) from functions where not private), '>=', 40::bigint, 'there are functions to look at');
select cmp_ok((select count(*) from relations), '>=', 30::bigint, 'and relations');

-- Public functions
select is((select array_agg(signature order by signature) from functions where not private and not prosecdef),
  '{awa.run_maintenance(),awa.run_passes(boolean)}',
  'every public function runs as its owner, but for the procedures: these commit, which none may that does');
select is((
  select array_agg(signature order by signature)
    from functions
   where not private and prokind = 'f' and not coalesce('search_path=pg_catalog, pg_temp' = any(proconfig), false)
),
  null, 'with a search_path of its own');
select is((select array_agg(signature order by signature) from functions where not private and prokind <> 'f'),
  '{awa.run_maintenance(),awa.run_passes(boolean)}', 'there are two procedures');
-- Defaults of variables are constants. The last commit is followed by nothing that calls.
select is((
  select array_agg(signature order by signature)
    from functions f, regexp_replace(f.prosrc, '--[^\n]*', '', 'g') body,
         (select 'set local search_path = pg_catalog, pg_temp;' as pin) s
   where f.prokind = 'p'
     and (body !~ format($$^\s*(declare(\s+v_\w+ [\w.\[\]]+( := (true|false))?;)*\s+)?begin\s+(%s|call awa\.)$$, s.pin)
      or regexp_count(body, '\mcommit;') <> regexp_count(body, s.pin))
),
  null, 'which begin, and go on after each commit, with a search_path of their own');

-- Private ones
-- The exceptions are run by triggers at commit, when the role is whoever the session is by then.
select is((select array_agg(signature order by signature) from functions where private and prosecdef),
  '{awa._inherit(),awa._resolve_change()}',
  'private functions run as their caller, but for those that decide at commit');
select is((
  select array_agg(signature order by signature)
    from functions
   where private and prosecdef and not coalesce('search_path=pg_catalog, pg_temp' = any(proconfig), false)
),
  null, 'which have a search_path of their own');
select is(
  (
    select array_agg(
      format('%s %s %s', t.tgrelid::regclass, t.tgdeferrable, t.tginitdeferred) order by t.tgrelid::regclass::text
    )
      from pg_trigger t
      join functions f on f.oid = t.tgfoid
     where t.tgparentid = 0
  ),
  '{"awa.heirs t t","awa.pending_changes t t","awa.ring f f","awa.settings f f"}',
  'and are the only triggers that are deferred to the end of the transaction; two others keep rows');
select is((
  select count(*) from pg_trigger t join functions f on f.oid = t.tgfoid where t.tgdeferrable and t.tgenabled = 'A'
),
  2::bigint, 'also in a session that takes itself for a replica');
select is((
  select array_agg(f.signature order by f.signature)
    from functions f, aclexplode(coalesce(f.proacl, acldefault('f', f.proowner))) a
   where f.private and a.grantee <> f.proowner
),
  null, 'and are granted to nobody');

-- All
select is((select array_agg(signature order by signature) from functions where proowner <> 'awa_owner'::regrole), null,
  'awa_owner owns every function');
select is((
  select array_agg(relname::text order by relname::text)
    from pg_class
   where relnamespace = 'awa'::regnamespace and relkind in ('r', 'p', 'v', 'S') and relowner <> 'awa_owner'::regrole
),
  null, 'every table, view and sequence');
select is((select nspowner::regrole::text from pg_namespace where nspname = 'awa'), 'awa_owner', 'and the schema');
select is((
  select row(rolcanlogin, rolsuper, rolcreaterole, rolcreatedb, rolbypassrls)::text
    from pg_roles
   where rolname = 'awa_owner'
),
  '(f,f,f,f,f)', 'nobody can log in as awa_owner, and it may do nothing else');
select is((
  select array_agg(rolname::text order by rolname::text)
    from pg_roles
   where rolname in ('awa_producer', 'awa_worker', 'awa_maintainer', 'awa_operator', 'awa_reader')
     and (rolcanlogin or rolsuper or rolcreaterole or rolcreatedb)
),
  null, 'nor as the other roles');
select is((
  select array_agg(f.signature order by f.signature)
    from functions f, aclexplode(coalesce(f.proacl, acldefault('f', f.proowner))) a
   where a.grantee = 0
),
  null, 'nothing is executable by PUBLIC');
select is((
  select array_agg(c.relname::text order by c.relname::text)
    from pg_class c, aclexplode(c.relacl) a
   where c.relnamespace = 'awa'::regnamespace and a.grantee = 0
),
  null, 'PUBLIC has no right on any relation');
select is((select count(*) from pg_namespace n, aclexplode(n.nspacl) a where n.nspname = 'awa' and a.grantee = 0),
  0::bigint, 'nor on the schema');
select is((
  select array_agg(f.signature order by f.signature)
    from functions f
    join pg_language l on l.oid = f.prolang
   where l.lanname not in ('plpgsql', 'sql')
),
  null, 'functions are in SQL and PL/pgSQL');

-- Comments
select is((
  select array_agg(signature order by signature) from functions f
   where coalesce(obj_description(f.oid, 'pg_proc'), '') = ''
),
  null, 'every function has a comment');
select is((
  select array_agg(relname::text order by relname::text)
    from relations c
   where coalesce(obj_description(c.oid, 'pg_class'), '') = ''
),
  null, 'every table, view and sequence has one');
select isnt(obj_description('awa'::regnamespace, 'pg_namespace'), null, 'and the schema');
create temp view mute as
select c.relname || '.' || a.attname as column
  from pg_class c
  join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
 where c.relnamespace = 'awa'::regnamespace
   and c.relkind in ('r', 'p')
   and not c.relispartition
   and coalesce(col_description(c.oid, a.attnum), '') = '';
select is((select array_agg(m.column order by m.column) from mute m), null, 'and each column of a table');

-- Plans
-- Before PostgreSQL 18 a function in SQL that is no part of its caller's query is planned anew in each transaction:
-- fail took four times as long.
select is((select array_agg(f.proname::text order by f.proname::text)
             from functions f
             join pg_language l on l.oid = f.prolang
            where l.lanname = 'sql'
              and f.prosqlbody is null
              and not f.proretset
              and 'awa._leases'::regtype in (select f.prorettype union select unnest(f.proargtypes))),
  null, 'what takes or gives attempts is planned once in a session');
select is(
  (select array_agg(f.proname || ' ' || s.setting order by f.proname || ' ' || s.setting)
     from functions f
    cross join unnest(
      array['plan_cache_mode=force_generic_plan', 'enable_seqscan=off', 'enable_bitmapscan=off', 'enable_hashjoin=off',
        'enable_mergejoin=off', 'jit=off']
    ) s(setting)
    where f.proname in ('enqueue', 'enqueue_many', 'enqueue_batch', 'claim', 'complete', 'complete_many', 'fail',
      'fail_many', 'release',
      'enqueue_unique', 'discard', 'snooze', 'put_off', 'cancel_attempt', 'extend', 'set_progress')
        and not coalesce(s.setting = any(f.proconfig), false)),
  null, 'hot functions get generic plans by index, whatever the statistics say');
select is(
  (select array_agg(f.proname || ' ' || s.setting order by f.proname || ' ' || s.setting)
     from functions f
    cross join unnest(
      '{plan_cache_mode,enable_seqscan,enable_bitmapscan,enable_hashjoin,enable_mergejoin,jit}'::text[]
    ) s(setting)
    where not f.private
      and f.proname not in ('configure', 'configuration', 'configure_queue', 'pause_queue', 'resume_queue',
        'register_worker', 'run_pass', 'run_maintenance', 'run_passes', 'version', 'audit', 'rebase_after_restore',
        'jobs_compat', 'next_fires', 'describe_cron')
      and not exists (select from unnest(f.proconfig) c where starts_with(c, s.setting || '='))
      and (f.proname, s.setting) not in (('health', 'enable_hashjoin'), ('health_of', 'enable_hashjoin'))),
  null,
  'all others say which plans they need, but for those that read all there is, or nothing, touch one row, or call the '
  'others; and health, which joins sessions and locks');
select is((
  select array_agg(proname::text order by proname)
    from functions
   where private and not prosecdef and proconfig is not null
),
  '{_carry_lanes,_ends_of,_fold,_fold_segment,_is_holder,_is_unbalanced,_places_of,_promote_due,_results,_retry}',
  'private functions take the settings of those that call them, but for those that count, carry lanes, look for a job '
  'by its id, or run for each of many jobs');
select is(
  (select array_agg(f.signature order by f.signature)
     from functions f
    where (
      f.prosrc ~
        '_(lock_(queue|shard|each_shard|within|schedule)|bound_waits|cancel|relocate|take_open|clean|truncate)\('
        or f.prosrc ~ $$set_config\('lock_timeout'$$) and (not f.private or f.prosecdef)
      and not coalesce('lock_timeout=0' = any(f.proconfig), false)), null,
        'who bounds the waits for locks leaves the caller''s lock_timeout as it was');

-- Tables
select is(
  (select array_agg(c.relname::text order by c.relname::text)
     from pg_class c
    where c.relnamespace = 'awa'::regnamespace
      and c.relispartition
      and c.relkind = 'r'
      and not coalesce('autovacuum_enabled=off' = any(c.reloptions), false)), null,
        'autovacuum leaves the hot families alone');
select is((
  select array_agg(distinct n.parts)
    from (
      select count(*) as parts
        from pg_inherits i
        join pg_class c on c.oid = i.inhparent
       where c.relnamespace = 'awa'::regnamespace and c.relkind = 'p'
       group by c.oid
    ) n
),
  array[4]::bigint[], 'which have four segments each');
select is((
  select array_agg(c.relname::text order by c.relname::text)
    from pg_class c
   where c.relnamespace = 'awa'::regnamespace
     and c.relname ~ '^lease_claim.*_[0-3]$'
     and not coalesce('toast_tuple_target=8160' = any(c.reloptions), false)
),
  null, 'arrays of ids stay in their rows');
select is((select array_agg(d.classid::regclass || ' ' || d.objid order by d.classid::regclass || ' ' || d.objid)
    from pg_depend d join functions f on f.oid = d.refobjid and d.refclassid = 'pg_proc'::regclass
   where d.classid in ('pg_attrdef'::regclass, 'pg_constraint'::regclass)), null,
     'no default and no check depends on a function, so that functions may be replaced');
select is(
  (select array_agg(distinct f.signature order by f.signature)
     from functions f
     join pg_depend d on d.classid = 'pg_proc'::regclass and d.objid = f.oid and d.refclassid = 'pg_type'::regclass
     join pg_type t on t.oid = d.refobjid
     join pg_class c on c.reltype in (t.oid, t.typelem)
    where f.prosqlbody is not null and c.relkind in ('r', 'p')),
  null, 'no parsed body holds rows of a table, or a migration could not change the table');
create temp view dynamic as
select b.name from bodies b where b.kind = 'function' and b.code ~ '\m(execute|dblink\w*|query_to_\w+)\M';
select is((select array_agg(d.name order by d.name) from dynamic d), '{_truncate}',
  'only what truncates a table builds SQL, for its name');
select is((select array_agg(f.proname::text order by f.proname::text) from functions f where f.prosrc ~ '\{\{'), null,
  'no function holds template braces');
select is((
  select array_agg(f.proname::text order by f.proname::text)
    from functions f
   where regexp_replace(regexp_replace(f.prosrc, '--[^\n]*', '', 'g'), 'E''([^'']|'''')*''', '', 'g') ~ '\\'
),
  null, 'what a literal means does not depend on the caller''s standard_conforming_strings');

-- Views
-- The planner says which is always empty; of a limit, its text does.
create function pg_temp.is_empty(view_name text) returns boolean
language plpgsql
as $$
declare
  v_plan json;
begin
  execute format('explain (format json) select * from awa.%I', view_name) into v_plan;
  return coalesce(v_plan -> 0 -> 'Plan' ->> 'One-Time Filter' = 'false', false)
    or pg_get_viewdef(format('awa.%I', view_name)::regclass) ~ '\s(LIMIT|FETCH FIRST)\s+\W*0\M';
end
$$;
create temp view misnamed as
select c.relname::text as name
  from pg_class c
 where c.relnamespace = 'awa'::regnamespace
   and c.relkind = 'v'
   and pg_temp.is_empty(c.relname) <> (c.relname ~ '_row$');
select is((select array_agg(m.name order by m.name) from misnamed m), null,
  'a view that is always empty, for its row type, ends in _row, and no other one');
select is((
  select array_agg(c.relname::text order by c.relname::text)
    from pg_class c
   where c.relnamespace = 'awa'::regnamespace
     and c.relkind = 'v'
     and c.relname ~ '_row$'
     and exists (select from aclexplode(c.relacl) a where a.grantee <> c.relowner)
),
  null, 'nobody is granted it');
select is((
  select array_agg(f.signature order by f.signature)
    from functions f
    join pg_type y on y.oid = f.prorettype and y.typtype = 'c'
    join pg_class c on c.oid = y.typrelid
   where not f.private and c.relname !~ '_row$' and c.relname <> 'jobs'
),
  null, 'public functions return rows of such views, or of jobs');

-- As an array, in any of its forms, as rows, or one after the other. What a closure says is no state.
create temp view state_lists as
select b.name
  from bodies b
 cross join (select string_agg(s, '|') as known from unnest(awa._states('known')) s) k
 where b.text ~ format(
   $$'\{(%1$s)[,}]|(?<!outcome = any\()\marray\['(%1$s)'|(?<!outcome )\m(in|any|all|values) ?\( ?\(?'(%1$s)'$$, k.known)
    or b.text ~ format(
      $$(?<!outcome )(=|<>|!=|from|like) '(%1$s)'(::text)?[ )]* (or|and)[ (]+%2$s'(%1$s)'$$, k.known,
      '(not )?[\w.]+ (=|<>|!=|is( not)? distinct from|like) ');
-- _queue_counts names the columns of a lane's counts, _is_cancel the ends without an answer, _list_jobs the states that
-- are read in a way of their own, _refuse_begun those in which a job may have begun.
select is((select array_agg(distinct s.name order by s.name) from state_lists s),
  '{_is_cancel,_list_jobs,_queue_counts,_refuse_begun}', 'no function but _states lists states of jobs');
select is((select array_agg(c.relname::text order by c.relname::text)
    from pg_class c
   where c.relnamespace = 'awa'::regnamespace and c.relkind = 'r'
     and case c.relreplident
           when 'f' then false
           when 'd' then not exists (select from pg_index i where i.indrelid = c.oid and i.indisprimary)
           else not exists (select from pg_index i where i.indrelid = c.oid and i.indisreplident)
         end), null,
         'every table has a replica identity: with a publication of all tables, rows of one without could be neither '
         'changed nor deleted');
-- From where ids are drawn: as _advance_sequences has to name it; with ? what is no literal.
create temp view drawn as
select coalesce('''' || m.found[1] || '''', '?') as named
  from (
    select b.text from bodies b where b.kind = 'function'
    union all
    select pg_get_expr(d.adbin, d.adrelid)
      from pg_attrdef d
      join pg_class c on c.oid = d.adrelid
     where c.relnamespace = 'awa'::regnamespace
  ) t(text)
 cross join lateral regexp_matches(t.text, $$nextval\((?: ?'([\w.]+)'(?:::regclass)? ?\))?$$, 'g') m(found)
union
select format('pg_get_serial_sequence(''%s'', ''%s'')', a.attrelid::regclass, a.attname)
  from pg_attribute a
  join pg_class c on c.oid = a.attrelid
 where c.relnamespace = 'awa'::regnamespace and a.attidentity <> '';
create temp view not_advanced as
select d.named
  from drawn d
 where not exists (select from bodies b where b.name = '_advance_sequences' and strpos(b.text, d.named) > 0);
select is((select array_agg(n.named order by n.named) from not_advanced n), null,
  'every sequence of ids goes on after the ids that there are, where rows were copied without it');

-- No way of writing hides any of that
alter table awa.leases add note text;
select is((select array_agg(m.column order by m.column) from mute m), '{leases.note}',
  'a column without a comment is found');
create function awa._fools() returns void
language plpgsql
as $$
begin
  execute concat('insert into awa.', 'leases');
end
$$;
create function awa._fools_too(state text) returns boolean
language sql
return state = 'failed' or state = 'dead';
create function awa._fools_three(state text) returns boolean
language sql
return state = ANY ( ARRAY['failed', 'dead'] );
create function awa._fools_four() returns bigint
language plpgsql
as $$
declare
  v_name text := 'awa.job_ids';
begin
  return nextval(v_name);
end
$$;
create function awa._fools_five() returns bigint
language sql
return pg_catalog."nextval" ( 'awa.sharded' );
create view awa.fools as select l.job_id from awa.leases l limit 0;
create view awa.fools_too as select l.job_id from awa.leases l where 1 > 2;
create view awa.fools_row as select l.job_id from awa.leases l;
select is((select array_agg(d.name order by d.name) from dynamic d), '{_fools,_truncate}', 'built SQL is found');
select is((select array_agg(distinct s.name order by s.name) from state_lists s where s.name ~ 'fools'),
  '{_fools_three,_fools_too}', 'and lists of states');
select is((select array_agg(n.named order by n.named collate "C") from not_advanced n), $${'awa.sharded',?}$$,
  'and sequences');
select is((select array_agg(m.name order by m.name) from misnamed m), '{fools,fools_row,fools_too}',
  'and views that are empty, or not');

select * from finish();
rollback;
