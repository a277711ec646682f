#!/usr/bin/env bash
# pgtap.sh [DIR...]: runs the pgTAP tests on the server that the variables of libpq name. Each directory of pgtap/ has a
# new database: most files compare all jobs there are with all counts, so that a file takes longer, the more others have
# left theirs.
set -euo pipefail
cd "$(dirname "$0")/.."

db=awa_pgtap
sql() { psql --no-psqlrc --quiet --tuples-only --no-align --set ON_ERROR_STOP=1 "$@"; }

sql -c "create database $db"
go run ./cmd/awa migrate --database-url "postgres:///$db"

if [[ $(sql -d $db -c "select count(*) from pg_available_extensions where name = 'pgtap'") == 1 ]]; then
	sql -d $db -c 'create extension pgtap'
else
	# The server is not the one that the pgTAP package belongs to. The extension
	# is plain SQL, apart from the lines that keep psql from loading it.
	file=$(printf '%s\n' /usr/share/postgresql/*/extension/pgtap--*.sql |
		grep -E '/pgtap--[0-9.]+\.sql$' | sort -V | tail -n 1)
	echo "pgtap.sh: this server has no pgTAP, loading $file"
	sed -E '/^\\(echo|quit)/d' "$file" |
		PGOPTIONS='-c client_min_messages=warning' sql -d $db -f -
fi

dirs=("$@")
((${#dirs[@]})) || dirs=(pgtap/*/)
status=0
for dir in "${dirs[@]}"; do
	name=${db}_$(basename "$dir")
	sql -c "create database $name template $db"
	pg_prove --timer --recurse --ext .sql -d "$name" "$dir" || status=1
	sql -c "drop database $name with (force)"
done
exit $status
