# vrrpd and pgnotify. `make` lists what there is to do; the two commands of the README are `make demo` and `make test`.
# Everything is built as the caller; only what needs root runs as root, by sudo if need be (scripts/as-root).

SHELL := /bin/bash
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
.NOTPARALLEL:

# Go is looked for only by the targets that use it.
GO = $(eval GO := $$(or $$(shell scripts/find-go),$$(error nothing was built)))$(GO)
VERSION ?= $(shell git -c safe.directory='*' describe --tags --always --dirty 2>/dev/null || echo devel)
BIN := $(CURDIR)/bin
GOBUILD = CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '-s -w -X main.version=$(VERSION)'

FUZZTIME ?= 60s
GOLANGCI_LINT := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.8.0
NFPM := github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.2
ALL_TAGS := netns,interop,pg,e2e,lab

DESTDIR ?=
PREFIX ?= /usr
SYSCONFDIR ?= /etc
SBINDIR := $(PREFIX)/sbin
BINDIR := $(PREFIX)/bin
LIBDIR := $(PREFIX)/lib
DOCDIR := $(PREFIX)/share/doc/pgvrrp

export GO_TAGS_ALL := $(ALL_TAGS)
export PGVRRP_BIN := $(BIN)

## main
.PHONY: demo test build install uninstall packages clean help

demo: need-go deps-demo build ## three hosts, PostgreSQL, a power loss, a takeover and the way back (installs what it lacks)
	@$(GOBUILD) -o bin/demo ./test/demo
	@scripts/as-root bin/demo

test: need-go deps-test ## every check below but fuzz (installs what it lacks)
	@scripts/test-all

build: ## bin/vrrpd and bin/pgnotify
	@mkdir -p bin
	$(GOBUILD) -o bin/vrrpd ./cmd/vrrpd
	$(GOBUILD) -o bin/pgnotify ./cmd/pgnotify

install: ## put binaries, units and sample configs in place (DESTDIR, PREFIX)
	@test -x bin/vrrpd -a -x bin/pgnotify || $(MAKE) build
	install -d $(DESTDIR)$(SBINDIR) $(DESTDIR)$(BINDIR) $(DESTDIR)$(LIBDIR)/systemd/system $(DESTDIR)$(LIBDIR)/tmpfiles.d \
		$(DESTDIR)$(SYSCONFDIR)/vrrpd $(DESTDIR)$(SYSCONFDIR)/pgnotify $(DESTDIR)$(DOCDIR)/examples
	install -m 755 bin/vrrpd $(DESTDIR)$(SBINDIR)/vrrpd
	install -m 755 bin/pgnotify $(DESTDIR)$(BINDIR)/pgnotify
	@scripts/install-data "$(DESTDIR)" "$(PREFIX)" "$(SYSCONFDIR)"

uninstall: ## remove what install put there; your own configuration stays
	@scripts/install-data --remove "$(DESTDIR)" "$(PREFIX)" "$(SYSCONFDIR)"

packages: build ## dist/*.deb and dist/*.rpm
	@VERSION='$(VERSION)' NFPM='$(GO) run $(NFPM)' scripts/packages

clean: ## remove bin, build and dist
	rm -rf bin build dist

## checks
.PHONY: lint test-unit race test-netns test-interop test-pg test-e2e test-install fuzz sim bench matrix soak

lint: ## gofmt, go vet, golangci-lint, govulncheck, go.mod
	@GO='$(GO)' GOLANGCI_LINT='$(GOLANGCI_LINT)' GOVULNCHECK='$(GOVULNCHECK)' scripts/lint

test-unit: ## pure tests: offline, any user, seconds; with the race detector where there is a C compiler (make test installs one)
	@if command -v gcc >/dev/null || [ -n "$$CI$$PGVRRP_REQUIRE" ]; then $(MAKE) race; else $(GO) test -count=1 ./...; fi

race:
	CGO_ENABLED=1 $(GO) test -race -count=1 ./...

test-netns: build ## real kernel in network namespaces
	@GO='$(GO)' scripts/tagged-tests netns 10m

test-interop: build ## against keepalived
	@GO='$(GO)' scripts/tagged-tests interop 10m

PG ?=
test-pg: build ## against real PostgreSQL; PG=17 or PG=18: of a newer Debian, in a directory of its own, with whole hosts
	@if [ -n '$(PG)' ]; then GO='$(GO)' scripts/test-pg-version '$(PG)'; else GO='$(GO)' scripts/tagged-tests pg 10m; fi

test-e2e: build ## whole hosts: vrrpd or keepalived, pgnotify, PostgreSQL, faults
	@GO='$(GO)' scripts/tagged-tests e2e,lab 20m

test-install: build ## make install in a private mount namespace: systemd-analyze verify, uninstall leaves nothing
	@scripts/as-root scripts/test-install

fuzz: ## every fuzz target for FUZZTIME (60s)
	@GO='$(GO)' FUZZTIME='$(FUZZTIME)' scripts/fuzz

SEEDS ?= 10000
sim: ## what decides on mastership and on data, in virtual time: SEEDS runs with faults of each (10000), planted bugs, the real Raft
	$(GO) test -count=1 -timeout 60m -v -run 'TestSeeds|TestPartition|TestWallClock' ./test/sim -sim.seeds=$(SEEDS)
	$(GO) test -count=1 -timeout 60m -v -run 'TestPlanted|TestHarmless|TestRaft' ./test/sim -sim.planted -sim.raft=500
	$(GO) test -count=1 -timeout 60m -v ./test/sim/data -data.seeds=$(SEEDS) -data.planted

bench: need-go deps-bench build ## measurements beside keepalived; outages by quorum and with PostgreSQL; overhead (about an hour)
	@$(GOBUILD) -o bin/bench ./test/bench
	@scripts/as-root bin/bench

MATRIX ?=
matrix: need-go deps-bench build ## double failures of PostgreSQL under quorum, cell by cell, into docs/double-failure-matrix.md (MATRIX='-list' and other filters)
	@$(GOBUILD) -o bin/matrix ./test/matrix
	@scripts/as-root bin/matrix $(MATRIX)

N ?= 200
SEED ?= 0
soak: need-go deps-bench build ## N random failovers in a row under load (200): nothing lost, nothing by hand; SEED makes the same ones again
	@$(GOBUILD) -o bin/bench ./test/bench
	@scripts/as-root bin/bench -only soak -runs $(N) -seed $(SEED)

.PHONY: need-go deps-demo deps-test deps-bench
need-go:
	@: $(GO)
deps-demo deps-test deps-bench:
	@scripts/deps $(@:deps-%=%)

help:
	@awk -F ':.*## ' '/^## /{printf "\n%s\n", substr($$0, 4)} /^[a-z0-9-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
