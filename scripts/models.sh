#!/usr/bin/env bash
# models.sh [-small] [MODEL ...]: checks the models of docs/models with SPIN, all of them or some.
# models.sh -show MODEL NAME: prints a short run in which the broken variant NAME fails.
#
# The head of each model says what to run, in lines of these forms:
#   check   NAME ARGUMENTS             explores all states: no assertion fails, and no session waits for ever
#   small   NAME ARGUMENTS             the same with smaller bounds
#   live    NAME ARGUMENTS             no infinite run that is fair to all sessions fails the formula NAME
#   broken  NAME ASSERTION ARGUMENTS   with -DNAME the assertion fails, or the formula progress, or sessions wait for
#                                      each other (no_deadlock)
# Each statement of a model has to be reached in one of its checks. -small runs the lines of small alone.
set -euo pipefail
cd "$(dirname "$0")/.."

for tool in spin gcc; do
	command -v "$tool" >/dev/null || { echo "models.sh: no $tool: scripts/setup.sh models" >&2; exit 1; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
trap 'exit 130' INT

# The lines of a model that say what to run.
lines() { sed -nE "s/^ \* ($2) +([a-zA-Z_]+ .*)/\1 \2/p" "docs/models/$1.pml"; }

# Builds the checker of a model, and runs it: run "OPTIONS OF gcc" "OPTIONS OF pan" ARGUMENTS.
run() {
	local options=$1 run=$2
	shift 2
	rm -rf "$dir/pan"
	mkdir "$dir/pan"
	cp "docs/models/$model.pml" "$dir/pan/"
	(
		cd "$dir/pan"
		spin -a "$@" "$model.pml" && gcc -w -DMEMLIM=2000 $options -o pan pan.c && ./pan -m1000000 $run
	) >"$dir/out" 2>&1 || true
}

safety='-O2 -DSAFETY -DNOCLAIM -DCOLLAPSE'
fairness='-O2 -DNFAIR=3 -DCOLLAPSE'

if [[ ${1:-} == -show ]]; then
	model=$2
	read -r _ _ assertion arguments < <(lines "$model" broken | grep " $3 ") || { echo "models.sh: no $3" >&2; exit 1; }
	case $assertion in
	progress) run "$fairness" '-a -f -N progress' "-D$3" $arguments ;;
	*) run '-O2 -DSAFETY -DNOCLAIM -DREACH' -I "-D$3" $arguments ;;
	esac
	cd "$dir/pan"
	spin -t -p -g -l "-D$3" $arguments "$model.pml"
	exit
fi

forms='check|small|live|broken'
if [[ ${1:-} == -small ]]; then
	forms='small'
	shift
fi
models=("$@")
((${#models[@]})) || mapfile -t models < <(cd docs/models && ls -- *.pml | sed 's/\.pml$//')

failures=0
fail() {
	failures=$((failures + 1))
	printf '%-12s %-6s %-22s FAILED: %s\n' "$model" "$form" "$name" "$1"
	[[ -z ${2:-} ]] || sed 's/^/    /' "$2" | head -40
}

# Whether all states were explored, and nothing was found.
is_right() {
	grep -q 'errors: 0' "$dir/out" && ! grep -qE 'Search not completed|max search depth|out of memory|MEMLIM' "$dir/out"
}

succeed() {
	local states seconds memory
	states=$(sed -nE 's/^ *([0-9.e+]+) states, stored.*/\1/p' "$dir/out" | head -1)
	memory=$(sed -nE 's/^ *([0-9.]+)\s+total actual memory usage.*/\1/p' "$dir/out" | head -1)
	printf '%-12s %-6s %-22s %10.0f states  %4.0f MB\n' "$model" "$form" "$name" "$states" "$memory"
}

# Prints the lines of a model that the checker has, and of these the ones that it has reached.
reached() {
	awk -v model="$model.pml" '
		FILENAME ~ /pan.h$/ { if (match($0, /^typedef struct P[0-9]+ { \/\* .* \*\//)) {
			n = $3; sub(/^P/, "", n); names[n] = $6 } next }
		FILENAME ~ /pan.c$/ {
			if ($1 == "short" && $2 ~ /^src_ln[0-9]+$/ && $3 == "[]") { n = substr($2, 7); inside = 1; next }
			if ($1 == "};") inside = 0
			if (inside) { gsub(/,/, " "); for (i = 1; i <= NF; i++) if ($i > 0) has[n " " $i] = 1 }
			next }
		/^unreached in / { proc = $NF == "init" ? ":init:" : $NF }
		index($0, model ":") && !/-end-/ { split($1, at, ":"); sub(/,/, "", at[2]); missed[proc " " at[2]] = 1 }
		END { for (key in has) {
			split(key, part, " ")
			if (!(part[1] in names) || names[part[1]] == "progress") continue
			print "has", part[2]
			if (!((names[part[1]] " " part[2]) in missed)) print "reached", part[2]
		} }' "$dir/pan/pan.h" "$dir/pan/pan.c" "$dir/out"
}

for model in "${models[@]}"; do
	: >"$dir/reached"
	while read -r form name rest; do
		case $form in
		check | small)
			run "$safety" '' $rest
			reached >>"$dir/reached"
			if is_right; then
				succeed
			else
				fail 'an assertion fails, sessions wait for each other, or the search came to no end' "$dir/out"
			fi
			;;
		live)
			run "$fairness" "-a -f -N $name" $rest
			if is_right; then
				succeed
			else
				fail 'a fair run never gets there, or the search came to no end' "$dir/out"
			fi
			;;
		broken)
			read -r assertion rest <<<"$rest"
			case $assertion in
			progress)
				run "$fairness" '-a -f -N progress' "-D$name" $rest
				found='acceptance cycle'
				;;
			no_deadlock)
				run "${safety/O2/O0}" '' "-D$name" $rest # most fail at once
				found='invalid end state'
				;;
			*)
				run "${safety/O2/O0}" '' "-D$name" $rest
				found="assertion violated $assertion "
				;;
			esac
			if grep -q "$found" "$dir/out"; then
				printf '%-12s %-6s %-22s fails %s\n' "$model" "$form" "$name" "$assertion"
			else
				fail "it should fail $assertion" "$dir/out"
			fi
			;;
		esac
	done < <(lines "$model" "$forms")
	form=check name=reached
	if [[ $forms == check* ]]; then
		missed=$(awk '{ n[$1 " " $2] = 1; lines[$2] = 1 }
			END { for (l in lines) if (!(("reached " l) in n)) print l }' "$dir/reached" | sort -n | xargs)
		[[ -z $missed ]] || fail "statements that no check reaches, in these lines: $missed"
	fi
done
if ((failures)); then
	echo "models.sh: $failures failed" >&2
	exit 1
fi
