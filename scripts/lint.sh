#!/usr/bin/env bash
# Checks the functions of the database on the server that the variables of libpq name. Fails on each finding but those
# that it names: of plpgsql_check in all functions; of pgspot, which looks at what functions that run as their owner,
# and migrations, leave to the search_path of others; and on functions without a search_path of their own that anything
# but functions could call.
set -euo pipefail
cd "$(dirname "$0")/.."

db=awa_lint
sql() { psql --no-psqlrc --quiet --tuples-only --no-align --set ON_ERROR_STOP=1 "$@"; }
sql -c "set client_min_messages = warning" -c "drop database if exists $db" # of a run that was killed
sql -c "create database $db"
work=$(mktemp -d)
trap 'rm -rf "$work"; sql -c "drop database $db"' EXIT
go run ./cmd/awa migrate --database-url "postgres:///$db"
failed=0

# Fails, and shows what was found.
found() {
	printf 'lint.sh: %s\n' "$*" >&2
	failed=1
}

check_plpgsql() {
	local findings
	if [[ $(sql -c "select count(*) from pg_available_extensions where name = 'plpgsql_check'") == 0 ]]; then
		echo "lint.sh: this server has no plpgsql_check: install postgresql-<version>-plpgsql-check for Debian's" >&2
		[[ -n ${AWA_PG_BINDIR:-} ]] || failed=1 # a server from elsewhere, which no package is for
		return
	fi
	sql -d $db -c 'create extension plpgsql_check'
	findings=$(sql -d $db <<'SQL'
select format('%s, line %s: %s: %s', p.oid::regprocedure, c.lineno, c.level, c.message)
  from pg_proc p
  join pg_language l on l.oid = p.prolang and l.lanname = 'plpgsql'
 cross join plpgsql_check_function_tb(p.oid,
    case p.proname
      when '_resolve_change' then 'awa.pending_changes'::regclass
      when '_inherit' then 'awa.heirs'::regclass
      when '_refuse_removal' then 'awa.ring'::regclass
      else 0::regclass
    end, extra_warnings => true, performance_warnings => false, security_warnings => true) c
 where p.pronamespace = 'awa'::regnamespace
   -- a constant such as '{}' has no type of its own
   and c.message <> 'target type is different type than source type'
   -- it ends with a function that raises
   and c.message <> 'control reached end of function without RETURN'
   -- the arguments of backfill_schedule, and of what it calls
   and c.message not in ('name of parameter "from" is reserved keyword', 'name of parameter "to" is reserved keyword')
   -- one OUT argument of several, which may be a row
   and c.message not like 'composite OUT variable % is not single argument'
   -- a family and the number of a segment: names that come from _families and the ring
   and (p.proname, c.message) <> ('_truncate', 'text type variable is not sanitized')
 order by 1;
SQL
	)
	[[ -z $findings ]] || found "$findings"
}

# A function without a search_path runs with that of its caller. Nobody but the owner may call one, and here is who else
# does: a view that nobody may read but the owner, or a trigger that names the schema of each call.
check_callers() {
	local findings
	findings=$(sql -d $db <<'SQL'
select format('%s, without a search_path, is called by %s', p.oid::regprocedure,
              pg_describe_object(d.classid, d.objid, d.objsubid))
  from pg_proc p
  join pg_depend d on d.refclassid = 'pg_proc'::regclass and d.refobjid = p.oid and d.classid <> 'pg_proc'::regclass
  left join pg_rewrite r on d.classid = 'pg_rewrite'::regclass and r.oid = d.objid
  left join pg_class v on v.oid = r.ev_class
 where p.pronamespace = 'awa'::regnamespace and p.prosqlbody is null
   and not coalesce('search_path=pg_catalog, pg_temp' = any(p.proconfig), false)
   and p.proname <> '_refuse_removal'
   and (v.oid is null or exists (
         select from aclexplode(coalesce(v.relacl, acldefault('r', v.relowner))) a where a.grantee <> v.relowner))
union all
select format('%s may be called by %s', p.oid::regprocedure, a.grantee::regrole)
  from pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
 where p.pronamespace = 'awa'::regnamespace and p.prosqlbody is null and p.prokind = 'f'
   and not coalesce('search_path=pg_catalog, pg_temp' = any(p.proconfig), false)
   and a.grantee <> p.proowner
 order by 1;
SQL
	)
	[[ -z $findings ]] || found "$findings"
}

# Runs pgspot, which comes from PyPI, with its parser in a wheel.
pgspot() {
	local release=0.9.4 python dir
	python=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
	dir=${XDG_CACHE_HOME:-$HOME/.cache}/awa/pgspot-$release-python$python
	if ! [[ -e $dir/complete ]]; then
		rm -rf "$dir"
		python3 -m pip install --quiet --disable-pip-version-check --no-compile --only-binary :all: --target "$dir" \
			"pgspot==$release"
		touch "$dir/complete"
	fi
	PYTHONPATH=$dir python3 -m pgspot "$@"
}

# Private functions are given to pgspot with the search_path of those that call them: see check_callers. So are the
# procedures, which set it after each commit: pgtap/contract/lints.sql. A body in SQL's own syntax has no names left
# that a search_path changes, and pgspot can't read one. Nor can it read all of PL/pgSQL: but where the search_path is
# safe, it has no more to say about a body.
check_search_paths() {
	local start='create schema awa; set search_path = pg_catalog, pg_temp;' migration
	{
		echo "$start"
		sql -d $db <<'SQL'
select case when p.proname ~ '^_' and not p.prosecdef and not coalesce(p.proconfig::text ~ 'search_path', false)
                 or p.prokind = 'p'
            then regexp_replace(d.def, '\nAS ', E'\n SET search_path TO ''pg_catalog'', ''pg_temp''\nAS ')
            else d.def
       end || ';'
  from pg_proc p, replace(pg_get_functiondef(p.oid), 'CREATE OR REPLACE', 'CREATE') d(def)
 where p.pronamespace = 'awa'::regnamespace and p.prosqlbody is null
 order by p.oid::regprocedure::text;
SQL
	} >"$work/functions.sql"
	for migration in sql/migrations/*.sql; do
		{
			echo "$start"
			cat "$migration"
		} >"$work/${migration##*/}"
	done
	sql -d $db -c "select replace(pg_get_functiondef('awa._refuse_removal()'::regprocedure), ' OR REPLACE', '') || ';'" \
		>"$work/refuse_removal.sql"
	pgspot --no-plpgsql "$work/functions.sql" >"$work/found" 2>&1 || found "$(<"$work/found")"
	pgspot --proc-without-search-path 'awa._refuse_removal()' "$work/refuse_removal.sql" >"$work/found" 2>&1 ||
		found "$(<"$work/found")"
	for migration in sql/migrations/*.sql; do
		pgspot "$work/${migration##*/}" >"$work/found" 2>&1 || found "$(<"$work/found")"
	done
}

check_plpgsql
check_callers
check_search_paths
exit $failed
