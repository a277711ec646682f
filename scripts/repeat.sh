#!/usr/bin/env bash
# repeat.sh [-n ROUNDS] [-hogs N] [DIR...] [-- FLAGS]: runs the Go tests of packages again and again under bad
# conditions, and prints which of them failed how often. Exit status 1: some have.
#
#   scripts/repeat.sh                                    20 rounds of everything, for hours
#   scripts/repeat.sh -n 50 driver -- -test.run Signals  some tests of one package
#   GOMAXPROCS=1 scripts/repeat.sh cmd/awa
#
# The conditions: the race detector, another order each time, as many processes beside them that do nothing but
# compute (two unless -hogs says otherwise), and signals as nohup, and a shell's background, leave them: SIGHUP and
# SIGINT are ignored. A package is a directory; FLAGS are for the test binaries. With AWA_TEST_DATABASE_URL the tests
# use that server, otherwise one that is started here.
set -euo pipefail
rounds=20 hogs=2 dirs=() flags=()
while (($#)); do
	case $1 in
	-n) rounds=$2 && shift 2 ;;
	-hogs) hogs=$2 && shift 2 ;;
	--) shift && flags=("$@") && break ;;
	-*) sed -n '2,/^set/{/^#/s/^# \?//p}' "$0" >&2 && exit 2 ;;
	*) dirs+=("$(realpath "$1")") && shift ;;
	esac
done
cd "$(dirname "$0")/.."
if ((${#dirs[@]} == 0)); then
	mapfile -t dirs < <(find "$PWD" -name '*_test.go' -not -path '*/.*' -printf '%h\n' | sort -u)
fi
if [[ -z ${AWA_TEST_DATABASE_URL:-} ]]; then
	args=(-n "$rounds" -hogs "$hogs" "${dirs[@]}" --)
	((${#flags[@]} == 0)) || args+=("${flags[@]}")
	exec go run ./internal/withpg -- "$PWD/scripts/repeat.sh" "${args[@]}"
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/awa-repeat-XXXXXX")
echo "repeat.sh: logs of failed rounds are in $work"
binaries=()
for dir in "${dirs[@]}"; do
	name=${dir#"$PWD"/}
	binary=$work/${name//\//-}.test
	(cd "$dir" && go test -c -race -o "$binary" .)
	binaries+=("$binary")
done

trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
trap 'exit 130' INT TERM
for ((i = 0; i < hogs; i++)); do
	while :; do :; done &
done

failed=0
for ((round = 1; round <= rounds; round++)); do
	for i in "${!dirs[@]}"; do
		log=${binaries[i]%.test}-$round.log
		# Waited for as a job, so that a signal ends this script at once.
		(trap '' HUP INT && cd "${dirs[i]}" &&
			exec "${binaries[i]}" -test.shuffle on -test.timeout 60m "${flags[@]}") >"$log" 2>&1 </dev/null &
		running=$!
		if wait "$running"; then
			rm "$log"
			continue
		fi
		failed=1
		# A test and its sub-tests; or what ended the process: a panic, a leak, the timeout.
		tests=$(sed -nE 's/^ *--- FAIL: ([^ ]+).*/\1/p; s/^(panic: .*|testdb: .*)/\1/p' "$log")
		printf '%s\n' "${tests:-the process}" | sed "s|^|${dirs[i]#"$PWD"/} |" |
			tee -a "$work/failures" | sed "s/^/round $round: /"
	done
done
if ((failed)); then
	echo "failed so often in $rounds rounds:"
	sort "$work/failures" | uniq -c | sort -rn
	exit 1
fi
echo "repeat.sh: $rounds rounds passed"
rm -r "$work"
