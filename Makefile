# Weaveguard's build. `make help` lists what there is.

MAKEFLAGS += --no-print-directory
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
IMAGE   := ghcr.io/weaveguard/weaveguard:v0.1.0
NODES   ?= 3
FAMILY  ?= ipv4
ARCH    := $(shell go env GOARCH)
BIN     := build/bin/linux_$(ARCH)
LDFLAGS := -s -w -X github.com/weaveguard/weaveguard/mesh/contract.version=$(VERSION)
# Copies of private keys are erased, see docs/decisions/0008-freed-memory-is-erased.md.
GOBUILD := CGO_ENABLED=0 GOEXPERIMENT=runtimesecret go build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)'
PORTMAP := github.com/containernetworking/plugins/plugins/meta/portmap

.PHONY: help
help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "%-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: deps
deps: ## install the Debian packages that tests and images need
	@test/deps.sh

.PHONY: build
build: ## build the programs into build/bin
	@mkdir -p $(BIN)
	@echo "building into $(BIN)"
	@$(GOBUILD) -o $(BIN)/weaveguard-agent ./cmd/weaveguard-agent
	@$(GOBUILD) -o $(BIN)/weaveguard ./cmd/weaveguard
	@$(GOBUILD) -o $(BIN)/weaveguard-cni ./cmd/weaveguard-cni
	@$(GOBUILD) -o $(BIN)/weaveguard-portmap $(PORTMAP)

.PHONY: clean
clean: cluster-down ## remove what was built, and end a cluster that runs
	rm -rf build

.PHONY: lint
lint: ## check the form of the code
	@test/lint.sh

IMAGE_TAR := build/weaveguard-image.tar
BUILDAH   := buildah --storage-driver vfs --root $(CURDIR)/build/containers --runroot $(CURDIR)/build/containers-run

.PHONY: image
image: deps build ## build the image into build/weaveguard-image.tar
	@rm -f $(IMAGE_TAR)
	@$(BUILDAH) bud --quiet --isolation chroot --timestamp 0 --platform linux/$(ARCH) --build-arg TARGETARCH=$(ARCH) \
		--build-arg VERSION=$(VERSION) --build-arg REVISION=$$(git rev-parse HEAD 2>/dev/null || echo unknown) \
		--tag $(IMAGE) . >/dev/null
	@$(BUILDAH) push --quiet $(IMAGE) docker-archive:$(IMAGE_TAR):$(IMAGE)
	@$(BUILDAH) rmi --force $(IMAGE) >/dev/null
	@ls -l $(IMAGE_TAR) | awk '{printf "$(IMAGE_TAR): %.1f MB, $(IMAGE)\n", $$5/1e6}'

# The programs of a test cluster run in the foreground and clean up on Ctrl-C, so they aren't left to `go run`.
CLUSTER   ?= default
WGCLUSTER := build/cluster-bin/wgcluster

.PHONY: wgcluster
wgcluster:
	@go build -trimpath -o $(WGCLUSTER) ./test/cluster/wgcluster

.PHONY: demo
demo: deps ## three nodes, the manifest, pods that talk, a look at the wire; KEEP=1 leaves it running
	@echo "building the demonstration" && go build -trimpath -o build/cluster-bin/demo ./test/cluster/demo
	@build/cluster-bin/demo --nodes $(NODES) $(if $(filter-out 0 no,$(KEEP)),--keep)

.PHONY: cluster-up
cluster-up: deps wgcluster ## a Kubernetes without a network, left running: NODES=3 FAMILY=ipv4|ipv6|dual
	@$(WGCLUSTER) --name $(CLUSTER) up --nodes $(NODES) --family $(FAMILY)

.PHONY: cluster-node-add
cluster-node-add: wgcluster ## one more node for it
	@$(WGCLUSTER) --name $(CLUSTER) node-add

.PHONY: cluster-down
cluster-down: wgcluster ## end it, and remove all that it made
	@$(WGCLUSTER) --name $(CLUSTER) down && echo "cluster $(CLUSTER) is gone"

.PHONY: test
test: deps image wgcluster ## run all tests once: units, then the lanes lab, cluster and vm
	@test/all.sh

.PHONY: test-full
test-full: deps image wgcluster ## the same in full: units with -race, lanes five times
	@WEAVEGUARD_FULL=1 test/all.sh

.PHONY: fuzz
fuzz: ## fuzz the decoders of what comes from outside, each for FUZZTIME=30s
	@FUZZTIME=$(or $(FUZZTIME),30s) test/fuzz.sh

.PHONY: faults
faults: deps image wgcluster ## make the faults of docs/reliability.md, and write that page: FULL=1 for the long outages
	@rm -rf build/faults
	@export WEAVEGUARD_FAULTS=$(CURDIR)/build/faults WEAVEGUARD_FULL=$(FULL) WEAVEGUARD_IMAGE_TAR=$(CURDIR)/$(IMAGE_TAR); \
	go test -count=1 -p 1 -timeout 120m ./test/lab/agents -run '^TestFault' && \
	go test -count=1 -p 1 -timeout 120m ./test/cluster/product -run '^(TestProduct|TestUpgrade)$$' && \
	go test -count=1 -p 1 -timeout 120m ./test/vm -run '^(TestAgents|TestRotation|TestNothingLeaksThroughAReboot)$$' && \
	go run ./test/faults/table build/faults > build/reliability.md && mv build/reliability.md docs/reliability.md

.PHONY: soak
soak: deps ## random faults, rotations and pods on a mesh in the lab, for DURATION=20m; SEED=N has the same things happen again
	@WEAVEGUARD_SOAK=$(or $(DURATION),20m) WEAVEGUARD_SOAK_SEED=$(SEED) \
	go test -count=1 -timeout 24h ./test/lab/agents -run '^TestSoak$$' -v

.PHONY: pictures
pictures: deps ## take the pictures of the web page for docs/ui.md anew
	@WEAVEGUARD_PICTURES=1 go test -count=1 ./mesh/ui -run '^TestPage$$'
	@WEAVEGUARD_PICTURES=1 go test -count=1 ./test/lab/agents -run '^TestUI$$'

.PHONY: bench
bench: ## run the benchmarks
	@packages=$$(grep -rl --include='*_test.go' --exclude-dir=build '^func Benchmark' . | xargs -r dirname | sort -u || true); \
	if [ -z "$$packages" ]; then echo "there are no benchmarks yet"; exit 0; fi; \
	go test -run '^$$' -bench . -benchmem $$packages
