# guardian's build. `make` alone prints what there is.

GO ?= go

# How long each fuzz target runs.
FUZZTIME ?= 3s

# Which random sequences make test tries: the same ones each time, so that a failure is the change's. make property
# tries others.
RAPID_SEED ?= 1
SEQUENCES ?= 10000

# How many guards make week lives through a week of.
GUARDS ?= 1000

# The tags of tests that stand in targets of their own: that they compile is seen by make test too.
TAGS = argocd,chart,ci,flux,istiod,jaeger,operator,otel,page

# Healthy canary hours per line of bench-judge, and which ones.
HOURS ?= 1000
SEED ?= 0

# What make image and make release make: the version (default: the chart's appVersion), and where they push to.
VERSION ?=
PUSH ?=
RELEASE = $(GO) build -C testdata/tools/release -o "$(CURDIR)/bin/release" . && bin/release
RELEASE_FLAGS = $(if $(VERSION),-version $(VERSION)) $(if $(PUSH),-push $(PUSH))

PROMETHEUS_OPERATOR = github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring
CRDS = test/controlplane/crds

.DEFAULT_GOAL := help

.PHONY: help
help: ## Print this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build bin/guardian and bin/guardian-replay
	$(GO) build -trimpath -o bin/guardian ./cmd/guardian
	$(GO) build -trimpath -o bin/guardian-replay ./cmd/guardian-replay

# What users get is built by one Go, whatever the machine has: its standard library is part of it.
# The newest patch of a minor release has the least known vulnerabilities; 'local' is the machine's own.
RELEASE_GO ?= go1.26.11

.PHONY: image
image: export GOTOOLCHAIN = $(RELEASE_GO)
image: ## Build the image without a container engine into dist/image (PUSH=registry.example/team pushes it)
	@$(RELEASE) image -root . $(RELEASE_FLAGS)

.PHONY: release
release: export GOTOOLCHAIN = $(RELEASE_GO)
release: ## Build all that a release is into dist: image, charts, archives, SBOMs, checksums (VERSION=, PUSH=)
	@$(RELEASE) all -root . $(RELEASE_FLAGS)

.PHONY: unit
unit: ## Run the tests that need no control plane
	$(GO) test -short -shuffle=on ./...

.PHONY: test
test: tools fuzz ## Run all tests, on real kube-apiserver, Prometheus and Alertmanager
	$(GO) vet -tags=$(TAGS) ./cmd/guardian ./remediate ./test/...
	RAPID_SEED=$(RAPID_SEED) $(GO) test -timeout=30m -run='PropertyInvariants|SimulatedWeek|EqualToTheEngine|ReplaySaysWhatWasPutIn' ./remediate ./test/judge
	RAPID_SEED=$(RAPID_SEED) $(GO) test -race -shuffle=on -timeout=50m ./...

.PHONY: test-chart
test-chart: tools ## Test the chart with real controllers and operator, each of its rights missing, image and release (20 minutes)
	@$(GO) run ./test/cluster -build kube-controller-manager prometheus-operator
	$(GO) vet -tags=chart ./cmd/guardian ./test/controlplane
	$(GO) test -tags=chart -count=1 -run=RootAndAUser ./test/controlplane
	GUARDIAN_CHART=full $(GO) test -tags=chart -count=1 -timeout=1h -v -run='EachRight|FromTheRelease|TheImage|InACluster|RealOperatorsConfiguration' ./cmd/guardian

# The oldest versions that guardian is to work with, by the same tests: testdata/tools/*-oldest pin them.
OLDEST_PROGRAMS = promtool-oldest prometheus-oldest alertmanager-oldest amtool-oldest helm-oldest kube-apiserver-oldest

.PHONY: test-ci
test-ci: tools ## Run the sample's Jenkinsfile by Groovy and its GitHub workflows by act (installs groovy when root; 10 minutes)
	@command -v groovy >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq groovy default-jre-headless; } || \
		{ echo "groovy is not on PATH (Debian: apt-get install groovy default-jre-headless)"; exit 1; }
	@$(GO) run ./test/cluster -build act
	$(GO) vet -tags=ci ./cmd/guardian
	$(GO) test -tags=ci -count=1 -timeout=30m -v -run='ByGroovy|ByAct' ./cmd/guardian $(FLAGS)

.PHONY: test-matrix
test-matrix: tools ## Test with the oldest kube-apiserver, Helm, Prometheus and Alertmanager (builds them once, 15 minutes)
	@$(GO) run ./test/cluster -build $(OLDEST_PROGRAMS)
	GUARDIAN_OLDEST="promtool amtool" $(GO) test -count=1 -timeout=30m ./rules
	GUARDIAN_OLDEST="prometheus alertmanager" $(GO) test -count=1 -timeout=30m -v -run='ByRealPrometheusAndAlertmanager|ThroughAnOutage|OneAlertmanagerServes' ./cmd/guardian
	GUARDIAN_OLDEST="kube-apiserver helm" $(GO) test -count=1 -timeout=30m -v -run='InstallToUninstall|TheAPIServerTakes|TheChartRenders|V1beta1Alone' ./cmd/guardian

.PHONY: test-istio
test-istio: tools ## Have the real istiod judge what guardian writes (builds it once, 10 minutes)
	@$(GO) run ./test/cluster -build pilot-discovery
	$(GO) vet -tags=istiod ./remediate ./cmd/guardian
	$(GO) test -tags=istiod -count=1 -v -timeout=30m -run=Istiod ./remediate ./cmd/guardian

.PHONY: test-argocd
test-argocd: tools ## Have the real Argo CD sync the sample and the chart (builds it once, installs redis-server when root; 15 minutes)
	@command -v redis-server >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq redis-server; } || \
		{ echo "redis-server is not on PATH, and Argo CD keeps its cache there (Debian: apt-get install redis-server)"; exit 1; }
	@$(GO) run ./test/cluster -build argocd kube-controller-manager
	$(GO) vet -tags=argocd ./cmd/guardian
	$(GO) test -tags=argocd -count=1 -timeout=1h -v -run="ArgoCD|TheHealthCheck" ./cmd/guardian

.PHONY: test-flux
test-flux: tools ## Have Flux's real kustomize-controller apply the sample and helm-controller the chart (builds them once; 10 minutes)
	@$(GO) run ./test/cluster -build kustomize-controller helm-controller kube-controller-manager
	$(GO) vet -tags=flux ./cmd/guardian
	$(GO) test -tags=flux -count=1 -timeout=30m -v -run=UnderFlux ./cmd/guardian

.PHONY: test-page
test-page: tools ## Open the page in a real Chromium while a canary is rolled back (installs chromium when root, needs npm; 2 minutes)
	@command -v chromedriver >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq chromium chromium-driver; } || \
		{ echo "chromedriver is not on PATH (Debian: apt-get install chromium chromium-driver)"; exit 1; }
	@command -v npm >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq npm; } || \
		{ echo "npm is not on PATH, and axe-core comes from its registry (Debian: apt-get install npm)"; exit 1; }
	$(GO) vet -tags=page ./cmd/guardian
	$(GO) test -tags=page -count=1 -timeout=10m -v -run=InABrowser ./cmd/guardian $(FLAGS)

.PHONY: test-otel
test-otel: tools ## Send a rollback's trace to a real OpenTelemetry collector (builds it once; 2 minutes)
	@$(GO) run ./test/cluster -build collector
	$(GO) vet -tags=otel ./cmd/guardian
	$(GO) test -tags=otel -count=1 -timeout=10m -v -run=ARealCollector ./cmd/guardian

.PHONY: test-jaeger
test-jaeger: tools ## Send a rollback's trace to a real Jaeger, and follow guardian's links there (builds it once, 10 minutes)
	@$(GO) run ./test/cluster -build jaeger
	$(GO) vet -tags=jaeger ./cmd/guardian
	$(GO) test -tags=jaeger -count=1 -timeout=10m -v -run=ARealJaeger ./cmd/guardian

.PHONY: property
property: ## Try SEQUENCES (10000) other random sequences of events against the invariants
	$(GO) test -count=1 -timeout=2h -run=PropertyInvariants ./remediate -rapid.checks=$(SEQUENCES)

.PHONY: week
week: ## Live through a simulated week of GUARDS (1000) guards (about 10 minutes)
	GUARDIAN_SIM=$(GUARDS) $(GO) test -count=1 -timeout=3h -v -run=SimulatedWeek ./remediate

.PHONY: fuzz
fuzz: ## Run each fuzz target for FUZZTIME (3s)
	@built="$$(mktemp -d)" && trap 'rm -rf "$$built"' EXIT && \
		cache="$$($(GO) env GOCACHE)/fuzz" && \
		grep -rHoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' . \
		| sed -E 's,/[^/:]+:func , ,' | sort -u | grep -v ShowsASecret \
		| while read -r dir target; do \
			echo "fuzz $$dir $$target"; \
			test="$$built/$$(basename "$$dir").test"; \
			[ -x "$$test" ] || $(GO) test -c -fuzz=. -o "$$test" "$$dir" || exit 1; \
			(cd "$$dir" && "$$test" -test.run='^$$' -test.fuzz="^$$target\$$" -test.fuzztime=$(FUZZTIME) \
				-test.fuzzcachedir="$$cache/$$($(GO) list .)" </dev/null) || exit 1; \
		done

# Seconds of it show nothing, so it is no part of fuzz.
.PHONY: fuzz-secrets
fuzz-secrets: ## Search for a configuration whose error shows a secret, for FUZZTIME (FUZZTIME=10m)
	$(GO) test -run='^$$' -fuzz=ShowsASecret -fuzztime=$(FUZZTIME) ./cmd/guardian/config

.PHONY: tools
tools: ## Build the programs that tests start, once (5 to 10 minutes the first time)
	@$(GO) run ./test/cluster -build

.PHONY: test-operator
test-operator: tools ## The rules of 1,000 guards through the real prometheus-operator (builds it: 3 minutes more the first time)
	$(GO) test -tags=operator -count=1 -timeout=30m -v -run=RealOperator ./cmd/guardian

.PHONY: demo
demo: ## Show a canary that fails and is rolled back (HOLD=1 keeps it up, ACT= chooses another act)
	HOLD='$(HOLD)' ACT='$(ACT)' RUNS='$(RUNS)' FAST='$(FAST)' $(GO) run ./test/demo

.PHONY: test-demo
test-demo: ## Play all acts of the demo, one after the other (15 minutes)
	@for act in rollback observe refused promotion signals; do $(MAKE) --no-print-directory demo ACT=$$act || exit 1; done

.PHONY: cluster
cluster: ## Run a control plane until ctrl-C, and print its KUBECONFIG and URLs
	@$(GO) run ./test/cluster

.PHONY: bench
bench: bench-writes bench-idle bench-chain bench-fast bench-judge bench-cost ## Measure all of the following, one after the other

.PHONY: bench-writes
bench-writes: tools ## Measure guardian against the bare writes, on the real kube-apiserver (6 minutes)
	$(GO) run ./test/bench

.PHONY: bench-idle
bench-idle: tools ## Count what idle releases ask of the real kube-apiserver (7 minutes)
	$(GO) run ./test/bench -idle 4

.PHONY: bench-chain
bench-chain: tools ## Measure fault to weight 0 forty times at 5s and 15s scrapes and at the defaults, on real Prometheus and Alertmanager (30 minutes)
	RUNS=40 $(GO) run ./test/demo
	RUNS=40 $(GO) run ./test/demo -scrape 15s
	RUNS=40 $(GO) run ./test/demo -scrape 15s -evaluation 3s

.PHONY: bench-fast
bench-fast: tools ## The same on the fast lane (6 minutes)
	RUNS=40 FAST=1s $(GO) run ./test/demo

.PHONY: bench-judge
bench-judge: ## Simulate healthy and failing canaries, beside two naive rules (HOURS of each healthy one)
	$(GO) run ./test/judge -hours $(HOURS) -seed $(SEED)

.PHONY: bench-cost
bench-cost: tools ## Measure what the rules of 1, 100 and 1,000 guards cost a real Prometheus (22 minutes)
	$(GO) run ./test/judge/cost
	$(GO) run ./test/judge/cost -guards 1000 -busy 50
	$(GO) run ./test/judge/cost -guards 1000
	$(GO) run ./test/judge/cost -scrape 5s
	$(GO) run ./test/judge/cost -fast 1s

# How many days bench-replay replays.
DAYS ?= 30

.PHONY: bench-replay
bench-replay: tools ## Replay DAYS (30) simulated days of five guards, stored in a real Prometheus (15 minutes)
	GUARDIAN_REPLAY=$(DAYS) $(GO) test -count=1 -timeout=2h -v -run=ReplayOfAMonth ./test/judge

.PHONY: lint
lint: ## Check with gofmt, go vet and staticcheck
	@unformatted="$$(git ls-files -z '*.go' | xargs -0 gofmt -l)"; \
		if [ -n "$$unformatted" ]; then echo "gofmt -w is due for:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(GO) vet -tags=$(TAGS) ./...
	$(GO) vet -C testdata/tools/release ./...
	$(GO) vet -C testdata/tools/dashboards ./...
	$(GO) vet -C testdata/tools/collector ./...
	$(GO) vet -C internal/conntrack ./...
	$(GO) tool -modfile=testdata/tools/staticcheck/go.mod staticcheck ./...
	@$(MAKE) --no-print-directory lint-actions

# Where govulncheck's database is: vuln.go.dev, or "module" for what the module proxy has of it.
VULNDB ?= https://vuln.go.dev

.PHONY: vuln
vuln: export GOTOOLCHAIN = $(RELEASE_GO)
vuln: ## Look for known vulnerabilities in what guardian calls, as released (VULNDB=module: the database by the module proxy; 5 minutes)
	@db="$(VULNDB)"; if [ "$$db" = module ]; then \
			dir="$$($(GO) mod download -json golang.org/x/vulndb@latest | sed -n 's/^.*"Dir": "\(.*\)".*$$/\1/p')" && echo "database: $${dir##*/}" && db="file://$$dir/data/osv" || exit 1; \
		fi; \
		$(GO) tool -modfile=testdata/tools/govulncheck/go.mod govulncheck -db "$$db" ./...

# The sample's workflow is one of a repository of its own, and the action is taken from this one.
.PHONY: lint-actions
lint-actions: ## Check the GitHub workflows and the composite action with actionlint
	@scratch="$$(mktemp -d)" && trap 'rm -rf "$$scratch"' EXIT && mkdir "$$scratch/.git" && \
		cp -R docs/samples/orders/.github .github "$$scratch/" && \
		sed 's,canary-guardian/guardian/\(.github/actions/gate\)@main,./\1,' docs/samples/gate-action.yaml \
			>"$$scratch/.github/workflows/gate-action.yaml" && \
		$(GO) build -C testdata/tools/actionlint -o "$$scratch/actionlint" github.com/rhysd/actionlint/cmd/actionlint && \
		cd "$$scratch" && ./actionlint

.PHONY: golden
golden: ## Rewrite the golden files
	@grep -rlE --include='*_test.go' 'flag\.Bool\("update"' . | sed -E 's,/[^/]+$$,,' | sort -u \
		| { failed=0; while read -r dir; do $(GO) test -short "$$dir" -update || failed=1; done; exit $$failed; }

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
	@for module in testdata/tools/*/; do (cd "$$module" && GOTOOLCHAIN=auto GOFLAGS=-tags=remove_all_sd $(GO) mod tidy) || exit 1; done

.PHONY: verify
verify: fmt tidy golden crds lint ## Format, tidy, regenerate, lint; fail when anything changed
	git diff --exit-code
