# guardian's build. `make` alone prints what there is.

GO ?= go

# The go command leaves folders named testdata out of ./..., also when they are named as ./testdata/...: one by one.
PACKAGES = ./... $(shell find testdata -path testdata/tools -prune -o -name '*.go' -printf './%h\n' | sort -u)

# How long each fuzz target runs.
FUZZTIME ?= 3s

PROMETHEUS_OPERATOR = github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring
CRDS = testdata/controlplane/crds

.DEFAULT_GOAL := help

.PHONY: help
help: ## Print this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build bin/guardian
	$(GO) build -trimpath -o bin/guardian ./cmd/guardian

.PHONY: unit
unit: ## Run the tests that need no control plane
	$(GO) test -short -shuffle=on $(PACKAGES)

.PHONY: test
test: tools fuzz ## Run all tests, on real kube-apiserver, Prometheus and Alertmanager
	$(GO) test -run='PropertyInvariants|SimulatedWeek' ./remediate
	$(GO) test -race -shuffle=on -timeout=30m $(PACKAGES)

.PHONY: fuzz
fuzz: ## Run each fuzz target for FUZZTIME (3s)
	@grep -rHoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' . \
		| sed -E 's,/[^/:]+:func , ,' | sort -u \
		| while read -r dir target; do \
			echo "fuzz $$dir $$target"; \
			$(GO) test -run='^$$' -fuzz="^$$target\$$" -fuzztime=$(FUZZTIME) "$$dir" || exit 1; \
		done

.PHONY: tools
tools: ## Build the programs that tests start, once (5 to 10 minutes the first time)
	@$(GO) run ./testdata/cluster -build

.PHONY: demo
demo: ## Show a canary that fails and is rolled back (HOLD=1 keeps it up, ACT= chooses another act)
	HOLD='$(HOLD)' ACT='$(ACT)' $(GO) run ./testdata/demo

.PHONY: cluster
cluster: ## Run a control plane until ctrl-C, and print its KUBECONFIG and URLs
	@$(GO) run ./testdata/cluster

.PHONY: bench
bench: tools ## Measure guardian against the bare writes, on the real kube-apiserver (about 4 minutes)
	$(GO) run ./testdata/bench

.PHONY: lint
lint: ## Check with gofmt, go vet and staticcheck
	@unformatted="$$(git ls-files -z '*.go' | xargs -0 gofmt -l)"; \
		if [ -n "$$unformatted" ]; then echo "gofmt -w is due for:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet $(PACKAGES)
	$(GO) tool -modfile=testdata/tools/staticcheck/go.mod staticcheck $(PACKAGES)

.PHONY: golden
golden: ## Rewrite the golden files
	@grep -rHoE --include='*_test.go' 'flag\.Bool\("(update|golden)"' . \
		| sed -E 's,/[^/:]+:flag\.Bool\("([a-z]+)", \1,' | sort -u \
		| while read -r dir flag; do $(GO) test -short "$$dir" "-$$flag" || exit 1; done

.PHONY: crds
crds: ## Generate prometheus-operator's CRDs for the control plane
	@scratch="$$(mktemp -d)" && trap 'rm -rf "$$scratch"' EXIT && \
		$(GO) -C testdata/tools/controller-gen tool controller-gen crd:crdVersions=v1,maxDescLen=0 \
			paths=$(PROMETHEUS_OPERATOR)/v1 paths=$(PROMETHEUS_OPERATOR)/v1alpha1 output:crd:dir="$$scratch" && \
		for file in $(CRDS)/*.yaml; do cp "$$scratch/$$(basename "$$file")" "$$file"; done

.PHONY: fmt
fmt: ## Format the code
	git ls-files -z '*.go' | xargs -0 gofmt -w

.PHONY: tidy
tidy: ## Tidy go.mod and those of the tools
	$(GO) mod tidy
	@for module in testdata/tools/*/; do (cd "$$module" && GOFLAGS=-tags=remove_all_sd $(GO) mod tidy) || exit 1; done

.PHONY: verify
verify: fmt tidy golden crds lint ## Format, tidy, regenerate, lint; fail when anything changed
	git diff --exit-code
