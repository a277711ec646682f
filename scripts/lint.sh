#!/usr/bin/env bash
# Checks all functions of the database with plpgsql_check, on the server that the variables of libpq name. Fails on each
# finding but those below.
set -euo pipefail
cd "$(dirname "$0")/.."

db=awa_lint
sql() { psql --no-psqlrc --quiet --tuples-only --no-align --set ON_ERROR_STOP=1 "$@"; }
if [[ $(sql -c "select count(*) from pg_available_extensions where name = 'plpgsql_check'") == 0 ]]; then
	echo "lint.sh: this server has no plpgsql_check: install postgresql-<version>-plpgsql-check for Debian's" >&2
	[[ -n ${AWA_PG_BINDIR:-} ]] # a server from elsewhere, which no package is for
	exit
fi
sql -c "set client_min_messages = warning" -c "drop database if exists $db" # of a run that was killed
sql -c "create database $db"
trap 'sql -c "drop database $db"' EXIT
go run ./cmd/awa migrate --database-url "postgres:///$db"
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
if [[ -n $findings ]]; then
	printf 'lint.sh: %s\n' "$findings" >&2
	exit 1
fi
