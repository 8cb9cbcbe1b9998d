# Two commands to know: make demo, make test.

PGPOOLED_TEST_STRESS ?= 5m
FUZZTIME ?= 30s
SOAK ?= 1h
SOAKFLAGS ?=
# RACE= switches the race detector off, for systems that have none.
RACE ?= -race
export FUZZTIME RACE

.PHONY: help demo test test-matrix lint postgres pgbouncer compiler stress bank fuzz compare commit-cost bench failover proxies soak docs clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*## */|/' | awk -F'|' '{ printf "make %-12s %s\n", $$1, $$2 }'

demo: postgres ## see the pool work on a throwaway PostgreSQL, in under a minute
	cd cmd/pgpooled && go run . demo

test: postgres pgbouncer compiler lint ## lint, then all tests of all modules with the race detector
	@sh scripts/test.sh

test-matrix: postgres pgbouncer compiler ## all tests against PostgreSQL 14 to 18, taken from npm (VERSIONS="14 18", RUN=regexp)
	@sh scripts/matrix.sh

lint: ## gofmt, go vet for Linux, macOS, FreeBSD and Windows, staticcheck
	@sh scripts/lint.sh

postgres: ## install a PostgreSQL server with the system's package manager, if there is none
	@sh scripts/install.sh postgres

pgbouncer: ## install PgBouncer with the system's package manager, if there is none
	@sh scripts/install.sh pgbouncer

compiler: ## install a C compiler, which the race detector needs, if there is none
	@sh scripts/install.sh compiler

stress: postgres pgbouncer compiler ## long seeded stress with the race detector (PGPOOLED_TEST_STRESS=5m)
	PGPOOLED_TEST_STRESS=$(PGPOOLED_TEST_STRESS) go test $(RACE) -count=1 -timeout 3h -v -run Stress ./...

bank: postgres compiler ## money moves under 2,000 faults: made once or not at all, and the caller knows (PGPOOLED_TEST_SEED=n)
	PGPOOLED_TEST_LONG=1 go test $(RACE) -count=1 -timeout 30m -v -run TestBank .

fuzz: postgres compiler ## run each fuzz target for a while (FUZZTIME=30s)
	@sh scripts/fuzz.sh

compare: postgres ## break connections under lib/pq, pgx and pgpooled alike; writes the table of docs/reliability.md
	cd compare && go run ./reliability -write ../docs/reliability.md

commit-cost: postgres ## what commit_check costs a small transaction; writes the table of docs/commit-check.md
	cd compare && go run ./commitcost -write ../docs/commit-check.md

soak: postgres ## mixed load and random faults for SOAK=1h; fails if a promise is broken or something grows
	cd soak && go run . -duration $(SOAK) -json ../bin/soak.json -svg ../bin/soak.svg $(SOAKFLAGS)

failover: postgres ## kill a primary and promote its standby under lib/pq, pgx and pgpooled; writes the table of docs/reliability.md
	cd compare && go run ./failover -write ../docs/reliability.md

proxies: postgres compiler ## test behind HAProxy, PgBouncer and pgpool-II, which it installs if they are missing
	@sh scripts/install.sh haproxy pgbouncer pgpool
	PGPOOLED_TEST_LONG=1 go test $(RACE) -count=1 -timeout 10m -v -run Behind .

bench: postgres ## measure pgpooled beside lib/pq, pgx and pgbench, a quarter of an hour; writes docs/benchmarks.md and its plots
	mkdir -p bin
	cd bench && PGPOOLED_TEST_BENCH_COMMAND="make bench" go run . -write ../docs/benchmarks.md -json ../bin/bench.json

docs: ## regenerate docs/parameters.md, the comment in doc.go and docs/metrics.md from their tables
	go test -count=1 -timeout 5m -run TestParameters . -update
	go test -count=1 -timeout 5m ./internal/metrics -update

clean: ## remove what the targets above built, and the cached test results
	rm -rf bin
	go clean -testcache
