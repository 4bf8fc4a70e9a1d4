# Each target is what CI runs too (.ci/run). `make` alone builds and tests.

GO ?= go
# How long `make fuzz` gives each target.
FUZZTIME ?= 60s
# What `make image` calls the image.
IMAGE ?= ghcr.io/crosspod/relay:dev
# Kept in step with .ci/run, which reads it from here.
GOLANGCI_LINT = github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

.PHONY: all build test race fuzz bench lint fmt cover e2e netns interop acme k8s chart image packages help
.DEFAULT_GOAL := all

all: build test ## build and test

build: ## build the commands into bin/
	$(GO) build -o bin/ ./cmd/...

test: ## run the tests
	$(GO) test ./...

race: ## run the tests with the race detector
	$(GO) test -race ./...

fuzz: ## fuzz each target for FUZZTIME (60s)
	.ci/fuzz $(FUZZTIME)

bench: ## run the Go benchmarks ten times, for benchstat
	$(GO) test -run '^$$' -bench . -count 10 ./...

lint: bin/golangci-lint ## look for faults
	bin/golangci-lint run

fmt: ## format
	gofmt -l -w $$(git ls-files '*.go')

cover: ## print the coverage of each package and in all
	$(GO) test -coverpkg=./... -coverprofile=coverage.out ./... && $(GO) tool cover -func=coverage.out | tail -n 1

e2e: ## run the end-to-end tests: the real binary on loopback, and deploy/compose.yaml
	$(GO) test -count=1 -tags e2e ./test/e2e/...
	cd test/compose && $(GO) test -count=1 ./...

netns: ## run pods on a network that fails, as root on Linux with nftables
	$(GO) test -count=1 -tags netns ./test/netns/...

interop: ## run NetBird's own client library, two versions, against one pod and three
	cd interop && $(GO) test -count=1 ./...
	cd interop && $(GO) test -count=1 -pods 3 -short -skip '^TestPods' ./...
	cd interop && $(GO) test -count=1 -modfile=go.v0.76.3.mod ./...

acme: ## get a certificate from Pebble, Let's Encrypt's directory for tests
	cd test/acme && $(GO) test -count=1 ./...

k8s: ## install the chart on a real Kubernetes and measure rollouts and faults, as root on Linux
	cd test/k8s && CGO_ENABLED=0 $(GO) test -count=1 -timeout 40m -v ./...

chart: ## test the chart without a cluster: what it renders and refuses
	cd test/k8s && $(GO) vet ./... && $(GO) test -count=1 ./chart ./load

image: ## pack the image for amd64 and arm64: dist/image, an OCI layout, and dist/image.tar
	build/binaries relay linux/amd64 linux/arm64
	cd build && $(GO) run ./image -name $(IMAGE) -o ../dist/image ../dist/relay_linux_amd64 ../dist/relay_linux_arm64

packages: ## build programs for all platforms, Debian packages, bills of materials and checksums into dist/
	build/packages

help: ## print this list
	@sed -n 's/^\([a-z0-9]*\):[^#]*## \(.*\)/\1\t\2/p' Makefile | expand -t 10

bin/golangci-lint: Makefile
	GOBIN=$(CURDIR)/bin $(GO) install $(GOLANGCI_LINT)
	@touch $@
