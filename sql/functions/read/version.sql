-- The version of the installed functions.
create or replace function awa.version() returns text
language sql stable
security definer
set search_path = pg_catalog, pg_temp
as $$ select '0.1.0' $$;
comment on function awa.version is 'The version of the installed functions';
