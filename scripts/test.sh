#!/usr/bin/env bash
# Runs the tests that need a server: the one that AWA_TEST_DATABASE_URL and the
# variables of libpq name. "make test" starts a server and runs this.
set -euo pipefail
cd "$(dirname "$0")/.."

pgtap=$(mktemp)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -f "$pgtap"' EXIT
trap 'exit 130' INT # to bash, "go test" that was interrupted has merely failed
status=0
# On two cores it takes the longest of these, not their sum: pgTAP beside the
# Go tests, and of those the package that takes the longest first.
scripts/pgtap.sh >"$pgtap" 2>&1 &
pid=$!
go test -count=1 -timeout 60m ./sql ./... || status=1
(cd otelawa && go test -count=1 -timeout 60m ./...) || status=1
wait "$pid" || status=1
cat "$pgtap"
exit $status
