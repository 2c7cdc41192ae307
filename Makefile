# `make help` lists the targets. `make run` and `make test` do all the set-up.

LIBS ?= openssl boringssl s2n
GO ?= go
# The modules of this repository: the core and the ones with heavier dependencies.
MODULES := . cmd/polytls grpctls promtls examples bench peers

# Where everything was built and installed, nothing may be skipped for want of it.
REQUIRE := POLYTLS_REQUIRE_PEERS=1 POLYTLS_REQUIRE_PROVIDERS="$(LIBS)"

# Where the race detector, AddressSanitizer and a build without cgo can tell what
# `make test` cannot; CONTRIBUTING.md says why.
RACE_PACKAGES := ./internal/blinding ./internal/engine ./internal/native ./internal/selection ./metrics ./tlsapi ./stdtls ./boringssl ./providers
ASAN_PACKAGES := ./internal/engine ./internal/native ./openssl ./boringssl ./s2n
NOCGO_PACKAGES := ./internal/engine ./internal/native ./openssl ./boringssl ./s2n ./providers
# cgocheck2 looks at every pointer that is stored to C memory.
ASAN := $(REQUIRE) GOEXPERIMENT=cgocheck2 $(GO) test -asan -timeout 40m

LEAK_CONNECTIONS ?= 20000
STREAM_CHECKS ?= 1000

# All tests against other programs, which take minutes.
PEERS := $(REQUIRE) POLYTLS_PEERS=all
# Built apart, because the binaries that `go test` runs at once have no symbols,
# and stacks are told apart by their functions.
FAULTS := cd internal/faultinjection && $(GO) test -c -tags polytls_faults
FAULTS_STRIDE ?= 1

FUZZTIME ?= 60s
FUZZ_TARGETS ?= FuzzServerFlight FuzzClientFlight FuzzAfterHandshake FuzzPeerMessages FuzzSession FuzzChangedSession FuzzCertificates FuzzClientHello FuzzOptions
SOAK ?= 1
# The subtests of the providers asked for.
space := $(subst ,, )
SOAKED = /($(subst $(space),|,$(strip $(PROVIDERS))))$$

BENCH_OUT ?= bin/bench
BENCH_FLAGS ?=

YARDSTICK_FLAGS ?=

PROVIDERS ?= $(LIBS) std
BOGO_FLAGS ?=

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
ACTIONLINT := github.com/rhysd/actionlint/cmd/actionlint@v1.7.12

.PHONY: help
help: ## List the targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: build ## Build everything, then show every provider talking to every other
	bin/polytls matrix

.PHONY: native
native: ## Build the native libraries (LIBS="openssl boringssl s2n", OPENSSL=system)
	@scripts/build-native.sh $(LIBS)

.PHONY: build
build: native ## Build the command at bin/polytls
	cd cmd/polytls && $(GO) build -o ../../bin/polytls .

.PHONY: test
test: native test-tools ## Run all tests: scripts, builds, consumers, without cgo, all providers
# The one compiles while the other waits.
	@$(MAKE) --no-print-directory -j2 --output-sync=target test-scripts test-go

.PHONY: test-scripts
test-scripts:
	scripts/build-native-test.sh
	scripts/bogo-test.sh
	scripts/build-stages-test.sh
	scripts/consumer-test.sh

.PHONY: test-go
test-go:
	$(REQUIRE) scripts/next-go-test.sh
	CGO_ENABLED=0 $(GO) test -short $(NOCGO_PACKAGES)
	cd grpctls && $(REQUIRE) $(GO) test -timeout 20m ./...
	cd promtls && $(REQUIRE) $(GO) test -timeout 20m ./...
	cd examples && $(REQUIRE) $(GO) test -timeout 20m ./...
	cd cmd/polytls && $(REQUIRE) $(GO) test -timeout 20m ./...
	cd bench && $(GO) test -timeout 20m ./...
	cd peers && $(REQUIRE) $(GO) test -timeout 20m ./...
	$(REQUIRE) $(GO) test -timeout 20m ./...

.PHONY: race
race: native ## Run the tests under the race detector where it tells something
	$(REQUIRE) $(GO) test -race -short -timeout 30m $(RACE_PACKAGES)

.PHONY: race-all
race-all: native test-tools ## Run all Go tests under the race detector
	cd cmd/polytls && $(REQUIRE) $(GO) test -race -timeout 30m ./...
	cd grpctls && $(REQUIRE) $(GO) test -race -timeout 30m ./...
	cd promtls && $(REQUIRE) $(GO) test -race -timeout 30m ./...
	$(REQUIRE) $(GO) test -race -timeout 40m ./...

.PHONY: asan
asan: native ## Run the tests of C under AddressSanitizer and cgocheck2
	$(ASAN) -short $(ASAN_PACKAGES)
	POLYTLS_FUZZ_SEEDS=all $(ASAN) -run '^Fuzz' ./providers
	$(FAULTS) -asan -o ../../bin/faults-asan.test
	cd internal/faultinjection && $(REQUIRE) ../../bin/faults-asan.test -test.short

.PHONY: asan-all
asan-all: native ## Run all Go tests under AddressSanitizer and cgocheck2
	$(ASAN) ./...

.PHONY: leaks
leaks: native ## Count memory over connections that fail and succeed (LEAK_CONNECTIONS=20000 with every provider)
	$(REQUIRE) POLYTLS_LEAK_CONNECTIONS=$(LEAK_CONNECTIONS) $(GO) test -count=1 -timeout 2h -v -run '^TestLeaks$$' ./providers

.PHONY: concurrency
concurrency: native ## Long runs: random streams, all calls at once ten times, poisoned error queues, slow handshakes
	$(REQUIRE) $(GO) test -race -count=10 -shuffle=on -timeout 2h -run '^(TestEverythingAtOnce|TestStreams)$$' ./providers
	$(REQUIRE) $(GO) test -count=1 -timeout 2h -run '^TestStreams$$' ./providers -rapid.checks=$(STREAM_CHECKS)
	$(REQUIRE) POLYTLS_POISONED_CONNECTIONS=1000 $(GO) test -count=1 -timeout 1h -run '^TestPoisonedErrorQueues$$' ./providers
	$(REQUIRE) POLYTLS_SLOW_HANDSHAKES=1000 $(GO) test -count=1 -timeout 1h -v -run '^TestHandshakesShareThreads$$' ./internal/engine

.PHONY: faults
faults: native ## Let native allocations fail, one after the other (FAULTS_STRIDE=37)
	$(FAULTS) -o ../../bin/faults.test
	cd internal/faultinjection && $(REQUIRE) POLYTLS_FAULTS_STRIDE=$(FAULTS_STRIDE) ../../bin/faults.test -test.v -test.timeout 0

.PHONY: proxy-load
proxy-load: native ## Reload, restart, and kill backends of polytls proxy under longer load (POLYTLS_PROXY_REQUESTS=20000)
	cd cmd/polytls && POLYTLS_PROXY_REQUESTS=$(or $(POLYTLS_PROXY_REQUESTS),20000) $(REQUIRE) $(GO) test -count=1 -timeout 60m -run Load ./internal/proxy

.PHONY: fuzz
fuzz: native ## Fuzz every provider and the options (FUZZTIME=60s or 1000000x for each target, FUZZ_TARGETS)
	for t in $(FUZZ_TARGETS); do \
		case $$t in FuzzOptions) package=cmd/polytls;; *) package=providers;; esac; \
		(cd $$package && POLYTLS_FUZZ_SEEDS=all $(GO) test . -run '^$$' -fuzz "^$$t\$$" -fuzztime $(FUZZTIME)) || exit 1; \
	done

.PHONY: soak
soak: native ## Hold, make, attack, rotate and use many connections for long (SOAK=1 is the full size, PROVIDERS="openssl std")
	POLYTLS_SOAK=$(SOAK) $(REQUIRE) $(GO) test ./internal/engine -count=1 -run '^(TestStorm|TestPeersThatDie)$$$(SOAKED)' -v -timeout 0
	POLYTLS_SOAK=$(SOAK) $(REQUIRE) $(GO) test ./providers -count=1 -run '^(TestSoak|TestRotation|TestAttackers|TestLateness)$$$(SOAKED)' -v -timeout 0

.PHONY: storm
storm: native ## Use shared connections with everything at once for long under the race detector and AddressSanitizer (SOAK=1 is a minute each)
	POLYTLS_SOAK=$(SOAK) $(REQUIRE) $(GO) test -race ./internal/engine -count=1 -run '^TestStorm$$' -v -timeout 0
	POLYTLS_SOAK=$(SOAK) $(ASAN) -count=1 -run '^TestStorm$$' -v ./internal/engine

.PHONY: wire-faults
wire-faults: native ## Fail transports and change flights at every byte of the handshake
	POLYTLS_FAULTS=full $(REQUIRE) $(GO) test ./stdtls ./openssl ./boringssl ./s2n -run 'TestConformance/(faults|bad-input)' -timeout 0

.PHONY: vulncheck
vulncheck: native ## Compare the native versions with known advisories, and run govulncheck
	$(GO) run ./internal/vulncheck $(MODULES)

.PHONY: bogo
bogo: native ## Let BoringSSL's test runner judge the providers (PROVIDERS="openssl std", BOGO_FLAGS="--test PATTERN")
	scripts/bogo.sh $(BOGO_FLAGS) $(PROVIDERS)

.PHONY: bogo-race bogo-asan
bogo-race bogo-asan: native ## The same with Go's race detector, AddressSanitizer in the shim
	scripts/bogo.sh --$(@:bogo-%=%) $(BOGO_FLAGS) $(PROVIDERS)

.PHONY: bench
bench: native ## Compare the providers on this machine (BENCH_FLAGS=--quick, BENCH_OUT=bin/bench)
	bench/floor/build.sh bin/bench
	bench/baseline/build.sh bin/bench/baseline
	cd bench && $(GO) build -o ../bin/bench/compare .
	bin/bench/compare --floors bin/bench --baseline bin/bench/baseline --out $(BENCH_OUT) $(BENCH_FLAGS)

.PHONY: interop
interop: native peer-tools ## Talk to other TLS programs in both roles, write docs/INTEROP.md (5 minutes)
	cd peers && $(PEERS) POLYTLS_INTEROP=../docs/INTEROP.md $(GO) test -count=1 -timeout 30m -run TestInterop .

.PHONY: scan
scan: native peer-tools ## Let testssl.sh and sslscan look at the presets of every provider (5 minutes)
	cd peers && $(PEERS) POLYTLS_SCAN=../docs/INTEROP.md $(GO) test -count=1 -timeout 60m -parallel 8 -run 'TestScan|TestSslscan' .

.PHONY: load
load: native peer-tools ## Send 10,000 requests over 100 connections to every provider, HTTP/1.1 and HTTP/2 (30 seconds)
	cd peers && $(PEERS) $(GO) test -v -count=1 -timeout 30m -run TestLoad .

.PHONY: browser
browser: native peer-tools ## Load the page of serve in headless Chromium, write docs/serve-page.png (a minute)
	@scripts/install-tools.sh chromium:chromium
	cd peers && $(PEERS) POLYTLS_SCREENSHOT=../docs/serve-page.png $(GO) test -v -count=1 -timeout 15m -run TestBrowser .

.PHONY: yardstick
yardstick: build peer-tools ## Measure serve and proxy beside nginx and HAProxy, write docs/PERFORMANCE.md (3 minutes)
	cd bench && $(GO) build -o ../bin/yardstick ./yardstick
	bin/yardstick --polytls bin/polytls --write docs/PERFORMANCE.md $(YARDSTICK_FLAGS)

.PHONY: lint
lint: native lint-tools ## Check formatting, generated files, Go, C under gcc and clang, shell and workflows
	@unformatted=$$(git ls-files '*.go' | xargs gofmt -l); \
	if [ -n "$$unformatted" ]; then echo "gofmt would change:"; echo "$$unformatted"; exit 1; fi
	for m in $(MODULES); do (cd $$m && $(GO) vet ./... && CGO_ENABLED=0 $(GO) vet ./... && $(GO) run $(STATICCHECK) ./...) || exit 1; done
	$(GO) run ./internal/optionsdoc -check
	CC=gcc $(GO) build ./...
	CC=clang $(GO) build ./...
	git ls-files '*.sh' .ci/run | xargs shellcheck
	$(GO) run $(ACTIONLINT)

.PHONY: docs
docs: native ## Write docs/OPTIONS.md from the code
	$(GO) run ./internal/optionsdoc

.PHONY: fmt
fmt: ## Format the Go code
	git ls-files '*.go' | xargs gofmt -w

.PHONY: clean
clean: ## Remove build output from the tree (the cache of native libraries stays)
	rm -rf bin
	scripts/build-native.sh --clean

.PHONY: test-tools
test-tools:
	@scripts/install-tools.sh openssl:openssl gnutls-cli:gnutls-bin curl:curl pkg-config:pkg-config h2load:nghttp2-client

.PHONY: peer-tools
peer-tools: test-tools
	@scripts/install-tools.sh tstclnt:libnss3-tools nginx:nginx-light haproxy:haproxy stunnel:stunnel4 javac:default-jdk-headless \
		node:nodejs testssl:testssl.sh sslscan:sslscan

.PHONY: lint-tools
lint-tools:
	@scripts/install-tools.sh shellcheck:shellcheck clang:clang
