#!/usr/bin/env bash
# setup.sh demo|test|matrix|models: checks that the machine has what "make demo",
# "make test", "make test-matrix" or "make models" needs. With apt-get, and as root
# or with a sudo that asks for no password, it installs what is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

mode=${1:-}
if [[ $mode != demo && $mode != test && $mode != matrix && $mode != models ]]; then
	echo "usage: $0 demo|test|matrix|models" >&2
	exit 2
fi
if ! command -v go >/dev/null; then
	echo "setup.sh: no Go: install one as new as go.mod says (https://go.dev/dl/)" >&2
	exit 1
fi

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
GOTMPDIR="$tmp" go build -buildvcs=false -o "$tmp/withpg" ./internal/withpg # knows where to look for a server

give_up() {
	printf 'setup.sh: %s\n' "${missing[@]}" >&2
	exit 1
}

# Sets missing, the messages to the user, and packages, the Debian packages
# that help.
check() {
	missing=() packages=() bindir=
	if [[ $mode != demo ]] && ! command -v spin >/dev/null; then
		missing+=("no spin: install spin, or see https://spinroot.com")
		packages+=(spin)
	fi
	if [[ $mode != demo ]] && ! echo '#include <stdio.h>' | gcc -E - >/dev/null 2>&1; then
		missing+=("no C compiler: install gcc and libc6-dev")
		packages+=(gcc libc6-dev)
	fi
	[[ $mode != models ]] || return 0
	if ! bindir=$("$tmp/withpg" -bindir 2>"$tmp/error"); then
		missing+=("$(sed 's/^withpg: //' "$tmp/error")")
		[[ -z ${AWA_PG_BINDIR:-} ]] || give_up # no package changes that directory
		packages+=(postgresql)
	fi
	[[ $mode != demo ]] || return 0
	if [[ $mode == matrix ]] && ! { command -v npm && command -v node; } >/dev/null; then # for matrix.sh
		missing+=("no npm: install npm, with Node.js")
		packages+=(npm)
	fi
	if ! command -v psql >/dev/null; then
		missing+=("no psql: install postgresql-client")
		packages+=(postgresql-client)
	fi
	# Another server's pgTAP will do, see pgtap.sh.
	if ! compgen -G '/usr/share/postgresql/*/extension/pgtap--*.sql' >/dev/null &&
		! [[ -e $("$bindir/pg_config" --sharedir 2>/dev/null)/extension/pgtap.control ]]; then
		missing+=("no pgTAP: install postgresql-<version>-pgtap, or see https://pgtap.org")
		packages+=(pgtap)
	fi
	# For a server of Debian's; there is no package for others.
	if [[ -z $bindir ]]; then
		packages+=(plpgsql-check)
	elif [[ $bindir =~ ^/usr/lib/postgresql/([0-9]+)/bin$ ]] &&
		! [[ -e /usr/lib/postgresql/${BASH_REMATCH[1]}/lib/plpgsql_check.so ]]; then
		missing+=("no plpgsql_check: install postgresql-${BASH_REMATCH[1]}-plpgsql-check")
		packages+=(plpgsql-check)
	fi
	if ! command -v pgbouncer >/dev/null && ! [[ -x /usr/sbin/pgbouncer ]]; then
		missing+=("no pgbouncer: install pgbouncer")
		packages+=(pgbouncer)
	fi
	if ! command -v pg_prove >/dev/null; then
		missing+=("no pg_prove: install libtap-parser-sourcehandler-pgtap-perl, "\
			"or \"cpan TAP::Parser::SourceHandler::pgTAP\"")
		packages+=(libtap-parser-sourcehandler-pgtap-perl)
	fi
	if ! python3 -m pip --version >/dev/null 2>&1; then # lint.sh fetches pgspot with it
		missing+=("no pip for python3: install python3-pip")
		packages+=(python3-pip)
	fi
	if ! command -v chromium >/dev/null && ! command -v google-chrome >/dev/null; then # the tests of the pages
		missing+=("no browser: install chromium, with a font such as fonts-liberation")
		packages+=(chromium fonts-liberation)
	fi
	# The package is for the Python of the system, which another one may hide.
	if ! python3 -c 'import psycopg' 2>/dev/null && ! /usr/bin/python3 -c 'import psycopg' 2>/dev/null; then
		missing+=("no psycopg for python3: install python3-psycopg, or \"pip install psycopg[binary]\"")
		packages+=(python3-psycopg)
	fi
}

# Installs the packages.
install() {
	local sudo='' major conf policy status=0
	command -v apt-get >/dev/null || give_up
	if ((EUID != 0)); then
		sudo='sudo -n'
		$sudo true 2>/dev/null || give_up
	fi
	echo "setup.sh: installing what is missing with apt-get"
	$sudo apt-get update -qq </dev/null

	if [[ $mode == models ]]; then
		major=
	elif [[ $bindir =~ ^/usr/lib/postgresql/([0-9]+)/bin$ ]]; then
		major=${BASH_REMATCH[1]}
	else
		major=$(apt-cache show --no-all-versions postgresql | sed -nE 's/^Version: ([0-9]+).*/\1/p')
	fi
	if [[ $mode != models ]] && ((major < 15)); then
		echo "setup.sh: this distribution has PostgreSQL $major; see https://apt.postgresql.org for a newer one" >&2
		exit 1
	fi

	# Keep the packages from creating a database cluster, and from starting services: the tests start their own.
	conf=/etc/postgresql-common/createcluster.d/awa-setup.conf
	policy=/usr/sbin/policy-rc.d
	$sudo mkdir -p "${conf%/*}"
	echo 'create_main_cluster = false' | $sudo tee "$conf" >/dev/null
	if [[ -e $policy ]]; then
		policy=
	else
		printf '#!/bin/sh\nexit 101\n' | $sudo tee "$policy" >/dev/null
		$sudo chmod +x "$policy"
	fi
	packages=("${packages[@]/#pgtap/postgresql-$major-pgtap}")
	packages=("${packages[@]/#plpgsql-check/postgresql-$major-plpgsql-check}")
	$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
		"${packages[@]}" </dev/null || status=1
	$sudo rm "$conf" ${policy:+"$policy"}
	if [[ " ${packages[*]} " == *' pgbouncer '* ]] && command -v systemctl >/dev/null; then
		$sudo systemctl --quiet disable pgbouncer 2>/dev/null || true # or it would start with the machine
	fi
	((status == 0)) || give_up
}

# Fetches axe-core, with which the tests look at how accessible the pages are. This package from PyPI holds it, in a
# file of half a megabyte; that of npm would need npm. cmd/awa/browsertest knows the directory.
fetch_axe() {
	local axe=4.12.1 package=axe-playwright-python==0.1.8 dir
	dir=${XDG_CACHE_HOME:-$HOME/.cache}/awa/axe-$axe
	[[ ! -e $dir/axe.min.js ]] || return 0
	echo "setup.sh: fetching axe-core $axe"
	python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: -d "$tmp" "$package"
	python3 -m zipfile -e "$tmp"/axe_playwright_python-*.whl "$tmp/axe"
	mkdir -p "$dir"
	mv "$tmp/axe/axe_playwright_python/axe.min.js" "$dir/axe.min.js"
}

check
if ((${#missing[@]})); then
	install
	check
	((${#missing[@]} == 0)) || give_up
fi
if [[ $mode == test || $mode == matrix ]]; then
	fetch_axe
fi
