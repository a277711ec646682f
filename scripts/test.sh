#!/usr/bin/env bash
# Runs the tests that need a server: the one that AWA_TEST_DATABASE_URL and the
# variables of libpq name. "make test" starts a server and runs this.
set -euo pipefail
cd "$(dirname "$0")/.."

trap 'exit 130' INT # to bash, "go test" that was interrupted has merely failed
status=0
scripts/models.sh -small || status=1
scripts/lint.sh || status=1
# pgTAP by itself: its tests of plans count blocks, and a server that does much
# else meanwhile has sessions read the catalog again. Then the package that
# takes the longest first, so that the others run beside it.
scripts/pgtap.sh || status=1
go test -count=1 -timeout 60m ./sql ./... ./cmd/awa/... ./otelawa/... || status=1
(cd bench && go test -count=1 -timeout 20m ./harness ./systems ./chaos) || status=1
exit $status
