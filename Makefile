## make demo       run the demo on a throw-away PostgreSQL server
## make test       check formatting, generated code and everything that has tests
## make test-matrix pass the tests on PostgreSQL 15, 16, 17 and 18, which it fetches, and pg_upgrade; MATRIX="-v 18" for
##                 some of them
## make models     check the models of docs/models with SPIN, in some five minutes
## make chaos      kill, stop and starve a server of its own under load, in some forty minutes:
##                 docs/reliability.md; CHAOS="-faults server-killed -times 5" for a part
## make soak       everything at random for an hour, or FOR=8h, beside turning segments: docs/reliability.md
## make bench      compare Awa with other queues, in some six minutes: docs/benchmarks.md
## make bench-docs fill the main tables of docs/benchmarks.md, in 11 minutes at most;
##                 bench-docs-others those of the slower systems
## make bench-full the same, of all systems in all scenarios: half a day
## make sql        write the installation, and its end, as files for psql: dist/
## make generate   generate the Go code of the SQL queries (sqlc), and the catalog that an
##                 installation and awa doctor compare with
## make tidy       tidy the go.mod and go.sum of all modules
##
## demo, test and bench use the PostgreSQL server they find, 15 or newer; AWA_PG_BINDIR
## names the directory of its programs when it should be another one.

# Without cgo sqlc builds several times faster, and without a C compiler.
SQLC := CGO_ENABLED=0 GOWORK=off go tool -modfile=scripts/tools/go.mod sqlc

.PHONY: help
help:
	@sed -n 's/^##[ ]*//p' Makefile

.PHONY: demo
demo:
	@scripts/setup.sh demo
	go run ./cmd/awa demo

.PHONY: test
test:
	@scripts/setup.sh test
	@files=$$(find . -name '*.go' -not -path './gen/*' -exec gofmt -l {} +) || exit 1; \
		test -z "$$files" || { printf 'not formatted with gofmt:\n%s\n' "$$files"; exit 1; }
	go vet ./... ./cmd/awa/... ./cmd/awa/browsertest ./otelawa/...
	go vet -tags pgupgrade ./sql
	cd bench && go vet ./...
	$(SQLC) diff
	@scripts/test.sh

# MATRIX: versions, and another command: see the script
.PHONY: test-matrix
test-matrix:
	@scripts/setup.sh matrix
	scripts/matrix.sh $(MATRIX)

.PHONY: models
models:
	@scripts/setup.sh models
	@scripts/models.sh

# CHAOS: more arguments, such as "-faults list"
.PHONY: chaos
chaos:
	@scripts/setup.sh demo
	cd bench && go build -o ../dist/bench . && ../dist/bench chaos $(CHAOS)

# FOR: how long
.PHONY: soak
soak:
	@scripts/setup.sh demo
	cd bench && go build -o ../dist/bench . && ../dist/bench chaos -soak $(or $(FOR),1h)

# BENCH: more arguments, such as "-systems all -rounds 5"
.PHONY: bench bench-docs bench-docs-others bench-full
bench:
	@scripts/setup.sh demo
	cd bench && go run . run $(BENCH)

bench-docs:
	@scripts/setup.sh demo
	cd bench && go run . run -rounds 5 -within 10m -into ../docs/benchmarks.md $(BENCH) \
		-systems floor,awa-sql,awa-sql-4,awa-sql-16,awa,pgque,pgmq,river,graphile-worker

bench-docs-others:
	@scripts/setup.sh demo
	cd bench && go run . run -rounds 3 -within 10m -into ../docs/benchmarks.md -section others $(BENCH) \
		-systems floor,awa-sql,awa,pgq,pg-boss,bullmq,dbos,awa-rust

bench-full:
	@scripts/setup.sh demo
	cd bench && go run . run -systems all -scenarios full -warm 5s -for 20s -rounds 5 $(BENCH)

.PHONY: sql
sql:
	@mkdir -p dist
	go run ./cmd/awa sql > dist/awa.sql
	go run ./cmd/awa sql --uninstall > dist/awa_uninstall.sql

.PHONY: generate
generate:
	$(SQLC) generate
	go generate ./internal/install

# The modules require a version of each other that may not have been published yet.
.PHONY: tidy
tidy:
	GOWORK=off go mod tidy
	cd bench && go mod tidy
	for module in cmd/awa cmd/awa/browsertest otelawa; do ( \
		cd $$module && go mod edit -replace github.com/awa-pg/awa=$(CURDIR) || exit 1; \
		GOWORK=off go mod tidy; status=$$?; \
		go mod edit -dropreplace github.com/awa-pg/awa; exit $$status) || exit 1; done
