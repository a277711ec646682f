#!/usr/bin/env bash
# test.sh [GROUP...]: runs the tests that need a server, in groups, or some of the groups. Each group has a server of
# its own (internal/withpg), and one group more than there are cores run at once, since tests often wait: AWA_TEST_JOBS
# sets another number. What a group printed comes when it has ended.
#
#   scripts/test.sh -list       the groups
#   scripts/test.sh sql         all tests of ./sql, in all their groups
#   scripts/test.sh pgtap       the tests in pgtap/
#
# The tests of ./sql and ./driver are dealt to groups, since these packages take the longest. On its server a test has
# no other one of its package beside it: some count transactions, blocks or sessions. So does pgTAP, and a server that
# does much else has sessions read the catalog again.
set -euo pipefail
cd "$(dirname "$0")/.."

declare -A parts=([sql]=6 [driver]=2)
# those that take the longest first
names=(pgtap driver-1 driver-2 sql-1 sql-2 sql-3 sql-4 sql-5 sql-6 browser cmd others bench lint models)
[[ ${1:-} != -list ]] || { printf '%s\n' "${names[@]}" && exit; }

groups=("${names[@]}")
if (($#)); then
	groups=()
	for wanted; do
		found=0
		for name in "${names[@]}"; do
			[[ $name != "$wanted" && $name != "$wanted"-[0-9] ]] || groups+=("$name") found=1
		done
		((found)) || { echo "test.sh: no group $wanted" >&2; exit 2; }
	done
fi

# Runs the tests of a group, on the server that the environment names.
run() {
	local go_test=(go test -count=1 -timeout 60m) package tests
	case $1 in
	pgtap | lint) "scripts/$1.sh" ;;
	models) scripts/models.sh -small ;;
	*-[0-9])
		# every test of the package goes to one of the groups, in turn
		package=${1%-*}
		cd "$package"
		tests=$("$AWA_TEST_WORK/$package.test" -test.list . | awk -v part="${1#*-}" -v parts="${parts[$package]}" '
			NR % parts == part - 1 { printf "%s%s", found++ ? "|" : "", $0 }')
		[[ -n $tests ]] || { echo "test.sh: no tests in ./$package" >&2; return 1; }
		"$AWA_TEST_WORK/$package.test" -test.timeout 60m -test.run "^($tests)\$"
		;;
	cmd) "${go_test[@]}" ./cmd/awa/... ;;
	browser) "${go_test[@]}" ./cmd/awa/browsertest ;;
	others)
		tests=$(go list ./... ./otelawa/... | grep -vE '/awa/(sql|driver)$')
		"${go_test[@]}" $tests
		;;
	bench) (cd bench && "${go_test[@]}" ./harness ./systems ./chaos) ;;
	esac
}

if [[ -n ${AWA_TEST_GROUP:-} ]]; then # started below, with a server
	run "$AWA_TEST_GROUP"
	exit
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/awa-test-XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'kill $(jobs -p) 2>/dev/null || true; wait; exit 130' INT TERM
go build -o "$work/withpg" ./internal/withpg
for package in "${!parts[@]}"; do
	[[ " ${groups[*]} " != *" $package-"* ]] || go test -c -o "$work/$package.test" "./$package"
done

# Runs a group on a server of its own, and prints what it printed, and its time.
start() {
	local name=$1 began=$SECONDS result=passed pid
	trap 'kill "$pid" 2>/dev/null; wait "$pid"; exit 130' INT TERM
	AWA_TEST_GROUP=$name AWA_TEST_WORK=$work "$work/withpg" -- scripts/test.sh >"$work/$name.log" 2>&1 &
	pid=$!
	wait "$pid" || result=FAILED
	until mkdir "$work/printing" 2>/dev/null; do sleep 0.1; done
	cat "$work/$name.log"
	echo "test.sh: $name $result in $((SECONDS - began)) s"
	rmdir "$work/printing"
	[[ $result == passed ]] || echo "$name" >>"$work/failed"
}

at_once=${AWA_TEST_JOBS:-$(($(getconf _NPROCESSORS_ONLN) + 1))}
for name in "${groups[@]}"; do
	while (($(jobs -rp | wc -l) >= at_once)); do
		wait -n || true
	done
	start "$name" &
done
wait
if [[ -e $work/failed ]]; then
	echo "test.sh: failed: $(sort "$work/failed" | tr '\n' ' ')" >&2
	exit 1
fi
echo "test.sh: all passed in $SECONDS s"
