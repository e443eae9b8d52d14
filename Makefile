# SpecQL Ops. `make` lists the targets. Needs Go (the version in go.mod);
# scripts/setup installs the rest where it can.

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# The build's own record of version control is off: Go refuses it in a clone
# that another user owns. The same facts come in through the linker instead.
export GOFLAGS := $(GOFLAGS) -buildvcs=false

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null | sed 's/^v//')
COMMIT  ?= $(shell git rev-parse --short HEAD 2>/dev/null)
DATE    ?= $(shell git log -1 --format=%cI 2>/dev/null)

PACKAGE := github.com/specql/specql-ops/internal/version
LDFLAGS := -s -w -X '$(PACKAGE).Version=$(VERSION)' -X '$(PACKAGE).Commit=$(COMMIT)' -X '$(PACKAGE).Date=$(DATE)'

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GORELEASER  := github.com/goreleaser/goreleaser/v2@v2.16.0

.PHONY: help demo test fuzz test-chaos check bench bench-migrate build picture snapshot clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 12

# Without a terminal there is nobody to look at a console: the demo runs its
# jobs for a while and prints what came of them.
demo: ## a private PostgreSQL, sample services, an agent and the console
	@scripts/setup demo >&2
	@$(MAKE) --no-print-directory build >&2
	@if [[ -t 0 && -t 1 ]]; then \
		exec bin/specql-tui demo; \
	else \
		exec bin/specql-tui demo --headless --duration 20s --output json; \
	fi

test: ## a minute of fuzzing and every test with the race detector; the last line counts
	@scripts/setup test
	@scripts/fuzz 60
	@mkdir -p .cache
	@go build -o .cache/testsum ./internal/testsum
	@CGO_ENABLED=1 exec .cache/testsum -race -timeout 20m ./...

# SECONDS is shared out among the targets: make fuzz SECONDS=3600.
fuzz: ## fuzz everything that parses, ten minutes altogether
	@scripts/fuzz $(or $(SECONDS),600)

test-chaos: ## the failure tests in their long form: some hundred thousand jobs, an hour
	@scripts/setup test
	@CGO_ENABLED=1 SPECQL_CHAOS=long go test -race -v -timeout 3h ./internal/chaos

check: ## formatting, vet, staticcheck, layers, scripts, systemd unit, alerts
	@scripts/check-format
	go vet ./...
	go -C bench vet ./...
	GOOS=darwin GOARCH=arm64 CGO_ENABLED=0 go build ./...
	go run $(STATICCHECK) ./...
	go -C bench run $(STATICCHECK) ./...
	go test ./internal/archtest
	@scripts/check-scripts
	@scripts/check-unit deploy/specql-agent.service
	@scripts/check-rules deploy/prometheus/rules.yml

# A module of its own, so that the programs do not depend on what they are
# measured beside. BENCH holds its flags, such as BENCH='-only latency'.
bench: ## measure the queue beside floors and River; half an hour
	go -C bench run . $(BENCH)

bench-migrate: ## what an application notices of migrate-schema at 5,000,000 jobs; half an hour
	go -C bench run . -only migrate $(BENCH)

build: ## both programs, static, into bin/
	@mkdir -p bin
	CGO_ENABLED=0 go build -trimpath -ldflags "$(LDFLAGS)" -o bin/ ./cmd/specql-agent ./cmd/specql-tui

picture: ## the pictures of docs/, from the stories of operators at the console (two minutes)
	SPECQL_PICTURES=$(CURDIR)/docs go test ./cmd/specql-tui -count 1 -run 'TestStories/(demo|whole_migration|failed_job_understood)$$'

snapshot: ## archives, .deb and .rpm of this commit into dist/; publishes nothing
	SPECQL_COMMIT=$(COMMIT) SPECQL_DATE=$(DATE) go run $(GORELEASER) release --snapshot --clean

clean: ## remove what the other targets made
	rm -rf bin dist .cache
