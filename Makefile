# Needs Go, git, make and a C compiler, and Node.js with npm for all of the acceptance
# tests. What else is needed is built from Go modules, or installed by npm, by
# ./bootstrap/provision and kept in the user's cache directory.

VERSION    ?= v0.1.0
BIN        ?= bin
MODULE     := github.com/tokenbroker/vault-plugin-secrets-broker
PLUGIN     := vault-plugin-secrets-broker
FUZZINPUTS ?= 3000
SPIN       ?= 2
# The flags of build, so that the two share what is in Go's cache.
GOBUILD    := CGO_ENABLED=0 go build -trimpath -buildvcs=false
PROVISION  := CGO_ENABLED=0 go run -trimpath -buildvcs=false ./bootstrap/provision
# go test, which says at the end what failed first.
GOTEST     := go run ./scripts/gotest

# In the order in which they tell most for the time they take.
STAGES := fmt-check vet lint vulns unit conformance fuzz acceptance

.DEFAULT_GOAL := help
.PHONY: help build plugin tokenbroker vault servers oidc-provider toxiproxy kube gitea counterparts demo dev test $(STAGES) vulns-latest race busy bench-tools bench profile bench-chart chaos release reproduce first-hour upgrade golden fmt clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: plugin tokenbroker ## bin/vault-plugin-secrets-broker and bin/tokenbroker, the same bytes on every machine

plugin: ## bin/vault-plugin-secrets-broker
	$(GOBUILD) \
		-ldflags "-s -w -X $(MODULE)/backend.Version=$(VERSION)" \
		-o $(BIN)/$(PLUGIN) ./cmd/$(PLUGIN)

tokenbroker: ## bin/tokenbroker, the command for those who use tokens
	cd cmd/tokenbroker && $(GOBUILD) -ldflags "-s -w -X main.version=$(VERSION)" -o $(abspath $(BIN))/tokenbroker .

vault: ## bin/vault, built from its Go module; VAULT=/path takes an installed one
	@$(PROVISION) vault

servers: ## bin/hydra and bin/op, the authorization servers of the tests
	@$(PROVISION) hydra op

oidc-provider: ## bin/oidc-provider, if there is Node.js; with CI set there must be
	@$(PROVISION) oidc-provider

toxiproxy: ## bin/toxiproxy, the bad network of acceptance and chaos
	@$(PROVISION) toxiproxy

counterparts: ## all of these, the plugin and tokenbroker, side by side: what acceptance needs
	@$(PROVISION) toxiproxy op oidc-provider etcd plugin tokenbroker vault hydra kube-apiserver gitea

kube: ## bin/kube-apiserver and bin/etcd, the Kubernetes of acceptance
	@$(PROVISION) etcd kube-apiserver

gitea: ## bin/gitea, a system of its own kind whose tokens acceptance gets
	@$(PROVISION) gitea

demo: demo-programs ## broker a token from a real server, use it, revoke it, see it dead
	@bin/demo

dev: demo-programs ## the same, left running, with the exports to use it
	@bin/demo -keep

.PHONY: demo-programs bin/demo
demo-programs: # compiled while Vault's modules are downloaded
	@$(PROVISION) op plugin demo vault

bin/demo:
	@$(GOBUILD) -o bin/demo ./scripts/demo

test: ## everything that CI runs
	@begin=$$(date +%s); \
	for stage in $(STAGES); do \
		echo "==> $$stage"; start=$$(date +%s); \
		$(MAKE) --no-print-directory $$stage || { echo "==> $$stage failed"; exit 1; }; \
		echo "==> $$stage: ok, $$(($$(date +%s) - start)) s"; \
	done; \
	echo "==> test: ok, $$(($$(date +%s) - begin)) s"

fmt-check: ## name the files that gofmt would change
	@files=$$(gofmt -l .); [ -z "$$files" ] || { echo "not gofmt-clean, run 'make fmt':"; echo "$$files"; exit 1; }

vet: ## go vet, also for the other modules that have code
	go vet ./...
	cd bootstrap/op && go vet ./...
	cd bootstrap/conformance && go vet ./...
	cd bootstrap/client && go vet ./...
	cd cmd/tokenbroker && go vet ./...

lint: ## golangci-lint with .golangci.yml
	@$(PROVISION) golangci-lint
	bin/golangci-lint run
	cd cmd/tokenbroker && ../../bin/golangci-lint run

vulns: ## fail if what is shipped calls what the pinned Go vulnerability database knows
	@$(PROVISION) govulncheck
	@go run ./scripts/vulns

vulns-latest: ## what is called, by the newest database, and what that has beyond the pinned one
	@$(PROVISION) govulncheck
	@go run ./scripts/vulns -latest

unit: ## tests that need no server, under the race detector
	CGO_ENABLED=1 $(GOTEST) -- -timeout 30m -short -race ./...
	cd cmd/tokenbroker && CGO_ENABLED=1 go test -race $$(go list ./... | grep -v /cli$$) && go test ./internal/cli # whose tests start a process each

race: unit

conformance: ## provider types, and the fakes of their tests, against what vendors publish
	cd bootstrap/conformance && go test ./...

.PHONY: trials
trials: tokenbroker ## tokenbroker with the tools that it answers, and with their libraries; minutes to compile, outside CI
	cd cmd/tokenbroker/trials && go test -count=1 -v .

fuzz: ## every fuzz target with FUZZINPUTS inputs
	@./scripts/fuzz $(FUZZINPUTS)

.PHONY: recipes
recipes: counterparts ## docs/recipes as they stand there, with the tools themselves; minutes to compile, outside CI
	@$(PROVISION) tofu actionlint
	RECIPES=1 $(GOTEST) -passed -- -count=1 -timeout 30m ./backend/acceptance -run '^(TestTheDocumentsRun|TestAgent|TestProxyHands|TestAJobOf|TestAPodsAgent|TestATokenEndsWith|TestAProgramThatHeeds|TestTheWorkflow|TestNoTokenInTheState|TestTheOperators)'

# They wait for servers more than they compute, so all four packages run at once.
acceptance: counterparts bench-tools ## the built plugin in a real Vault against real servers, also under fire
	$(GOTEST) -passed -- -count=1 -p 4 -timeout 30m ./bootstrap/harness ./backend/acceptance/... ./scripts/chaos ./scripts/bench
	@$(MAKE) --no-print-directory client

.PHONY: client
client: plugin vault ## a Go client generated from the OpenAPI document of a live mount, compiled and used
	cd bootstrap/client && go test -count=1 ./...

bench-tools: ## what the benchmark measures against: an engine that only leases, a server that answers at once
	$(GOBUILD) -ldflags "-s -w" -o bin/vault-plugin-secrets-floor ./bootstrap/floor
	$(GOBUILD) -ldflags "-s -w" -o bin/fastauth ./bootstrap/fastauth

# BENCH takes the flags of scripts/bench, such as BENCH='-quick' or BENCH='-run raft -rounds 9'.
# BASE is an earlier build of the plugin to compare with.
BENCH ?=
BASE  ?=

bench: build vault bench-tools ## the decision's cost, and the engine's as a ratio to the floor: BENCH='-quick' BASE=<earlier plugin>
	$(if $(BASE),,go test -run '^$$' -bench . -benchmem ./backend/...)
	@mkdir -p bin && go build -o bin/bench ./scripts/bench && bin/bench $(if $(BASE),-base $(BASE) -json bin/bench-base.json) $(BENCH)

# The profiles are of whole turns, and none of a busy machine's times: go tool pprof -top bin/profiles/jwt-*broker-*.cpu
profile: vault bench-tools ## bin/profiles/: what takes the plugin's and Vault's time, and what is allocated: BENCH='-run ^jwt$$'
	@mkdir -p bin/profiled bin/profiles && rm -f bin/profiles/*
	$(GOBUILD) -tags profile -o bin/profiled/$(PLUGIN) ./cmd/$(PLUGIN)
	@cp bin/vault-plugin-secrets-floor bin/profiled/ && go build -o bin/bench ./scripts/bench
	BROKER_PLUGIN=$(CURDIR)/bin/profiled/$(PLUGIN) bin/bench -profiles bin/profiles -json bin/profiles/bench.json -rounds 3 $(BENCH)

bench-chart: ## docs/bench.svg, drawn from what make bench has found
	@go run ./scripts/bench/chart bin/bench.json docs/bench.svg

# SEED=0 chooses one; NODES is 1 or 3.
SEED     ?= 0
DURATION ?= 10m
CLIENTS  ?= 100
STORAGE  ?= raft
NODES    ?= 1

busy: counterparts bench-tools ## acceptance and unit tests beside SPIN processes that only compute
	scripts/spin $(SPIN) $(MAKE) --no-print-directory unit acceptance

chaos: build vault servers toxiproxy ## the long fault run: SEED= DURATION= CLIENTS= NODES=
	go test -count=1 -v -timeout 0 ./scripts/chaos -run '^TestFaultRun$$' \
		-args -seed=$(SEED) -duration=$(DURATION) -clients=$(CLIENTS) -storage=$(STORAGE) -nodes=$(NODES) $(if $(SCRAPES),-scrapes=$(abspath $(SCRAPES)))

.PHONY: monitoring monitoring-picture
# What operators load into Prometheus and Grafana. Compiling Prometheus takes minutes, so this
# is outside CI; unit has what can be told without it.
monitoring: build vault ## docs/monitoring's rules and dashboard, evaluated by Prometheus' own engine; minutes to compile, outside CI
	cd bootstrap/monitoring && go vet ./... && go test -count=1 ./...

PICTURE ?= $(or $(TMPDIR),/tmp)/tokenbroker-chaos.prom

monitoring-picture: ## docs/monitoring/chaos.svg, the dashboard over a fault run: DURATION= SEED=
	@$(MAKE) --no-print-directory chaos SCRAPES='$(PICTURE)'
	cd bootstrap/monitoring && go run ./picture -scrapes '$(PICTURE)' -dashboard ../../docs/monitoring/grafana.json -to ../../docs/monitoring/chaos.svg

# A release is made of a commit, for PLATFORMS. KEY is an Ed25519 private key that signs it;
# IMAGE is what the plugin's image is called where it will be published. docs/release.md
PLATFORMS ?= linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64
DIST      ?= dist
IMAGE     ?=
KEY       ?=
CACHE     ?=

release: ## dist/, all that is published of VERSION: PLATFORMS= KEY= IMAGE=
	$(if $(filter file,$(origin VERSION)),$(error say which: make release VERSION=v1.2.3))
	cd bootstrap/release && go run . -version '$(VERSION)' -platforms '$(PLATFORMS)' -dist '$(DIST)' \
		-image '$(IMAGE)' -key '$(if $(KEY),$(abspath $(KEY)))' -cache '$(CACHE)'
	cd $(DIST) && $(or $(shell command -v sha256sum),shasum -a 256) --check --quiet --strict SHA256SUMS
	cd bootstrap/release && go run ./check $(if $(KEY),-key '$(abspath $(KEY))') $(abspath $(DIST))

reproduce: ## a second release, made elsewhere with nothing in Go's cache, is the same bytes: PLATFORMS=
	@scripts/reproduce $(VERSION) '$(PLATFORMS)'

# A key of its own signs it: the page checks the signature.
first-hour: ## from a release's files to a first token in a Vault, as docs/first-hour.md has it; prints the times
	@$(PROVISION) vault hydra
	@scripts/first-hour

# BEFORE is a commit; its plugin calls itself v0.0.1.
BEFORE ?= 3a070a5

upgrade: ## what BEFORE's plugin has granted lives and dies under this one
	@$(PROVISION) plugin vault hydra
	@scripts/before $(BEFORE) bin/$(PLUGIN)-before
	BROKER_BEFORE=$(CURDIR)/bin/$(PLUGIN)-before go test -count=1 -v ./backend/acceptance -run '^TestPromisesOutliveAnUpgrade$$'

# SERVERS are commands of Vaults, or of what takes their place. Those called bin/vault-… are built.
SERVERS ?= bin/vault-1.19 bin/vault-1.20 bin/vault
olderVaults = $(patsubst bin/%,%,$(filter bin/vault-%,$(SERVERS)))

.PHONY: compatibility
compatibility: counterparts bench-tools ## the stories of acceptance in each of SERVERS=; writes docs/compatibility.md; many minutes, outside CI
	$(if $(olderVaults),@$(PROVISION) $(olderVaults))
	@scripts/before $(BEFORE) bin/$(PLUGIN)-before
	BROKER_BEFORE=$(CURDIR)/bin/$(PLUGIN)-before go run ./scripts/compatibility $(SERVERS)

golden: ## rewrite the golden files under testdata from what the code does now
	UPDATE_GOLDEN=1 go test -short -count=1 ./...

fmt: ## gofmt
	gofmt -w .

clean: ## remove what make has put into the checkout; the user's cache stays
	rm -rf bin dist
