# Build, run and check Millrace. `make run` is the five-minute start; `make test` is what a change must pass.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
SWIFT := $(firstword $(shell command -v swift 2>/dev/null) $(wildcard /opt/swift/usr/bin/swift))
PYTHON ?= /usr/bin/python3
PACKAGES := deploy/debian-packages.txt
# What `millrace --version` names: the commit, and whether files differ from it.
COMMIT := $(or $(shell git describe --always --exclude '*' --abbrev=12 --dirty=-changed 2>/dev/null),unknown)
SOURCES := Package.swift Sources Tests

.PHONY: help setup packages clients swift run build test soak mutants fuzz format lint sanitize schemas clean
.PHONY: deb tarball check-deploy test-deploy size sbom
help:
	@echo "make run      set up, build for release, start the demo"
	@echo "make build    build for release: .build/release/millrace"
	@echo "make test     set up, build for debugging with warnings as errors, run all tests (SUITES=Proxy: one suite)"
	@echo "make soak     the fault tests' loops for longer (ROUNDS=200), test-deploy, upgrade, a fault every minute (MINUTES=30)"
	@echo "make mutants  break the consumer on purpose, one way at a time; a test must notice each"
	@echo "make deb      a Debian package of the release build: .build/packages; make tarball for other systems"
	@echo "make check-deploy   hold deploy/ and docs/ to running roles; make test-deploy installs the package as well"
	@echo "make size     machines for so many requests a second (RATE=10000)"
	@echo "make sbom     the packages that a built binary needs, CycloneDX"
	@echo "make setup    install what is missing: system packages ($(PACKAGES)), clients for tests (.venv)"
	@echo "make fuzz     fuzz both sides of HTTP and the reading of bodies (FUZZ_SECONDS=60 of processor time each)"
	@echo "make sanitize run the proxy's tests under AddressSanitizer and ThreadSanitizer (SANITIZERS=thread: one of them)"
	@echo "make format   format the sources; make lint checks them"
	@echo "make schemas  write schemas/configuration.schema.json anew from the table of keys"
	@echo "make clean    remove everything built"

setup: packages clients

SECTIONS := build run test

packages:
	@names=$$(awk -v wanted=" $(SECTIONS) " '{ sub(/#.*/, "") } /^\[/ { name = substr($$1, 2, length($$1) - 2); next } \
	  NF && index(wanted, " " name " ")' $(PACKAGES)); missing=""; \
	for name in $$names; do \
	  dpkg-query -W -f='$${db:Status-Status}' "$$name" 2>/dev/null | grep -qx installed || missing="$$missing $$name"; \
	done; \
	if [ -n "$$missing" ]; then \
	  echo "installing:$$missing"; as_root=""; \
	  if [ "$$(id -u)" != 0 ]; then as_root="sudo"; fi; \
	  $$as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q </dev/null; \
	  $$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $$missing </dev/null; \
	fi

clients:
	@PYTHON=$(PYTHON) Tests/Support/make-venvs

swift:
	@if [ -z "$(SWIFT)" ]; then \
	  echo "No Swift toolchain: neither on PATH nor in /opt/swift. Install Swift 6.2 or later from https://swift.org/install" >&2; \
	  exit 1; \
	fi

# The demo needs no test clients, and of the packages only what builds and runs it.
run: SECTIONS := build run
run: packages build
	@exec .build/release/millrace up --demo

build: swift
	@MILLRACE_COMMIT=$(COMMIT) $(SWIFT) build -c release --product millrace --static-swift-stdlib

# Brokers of a few seconds' life: half of what starting one takes is its compiler's second thoughts.
test soak check-deploy test-deploy: export JAVA_TOOL_OPTIONS ?= -XX:TieredStopAtLevel=1

test: setup swift
	@$(SWIFT) build --build-tests
	@Tests/run $(SUITES)

# Kills, rebalances, power cuts and restarts, ROUNDS times each; QUESTIONS at random, asked on each store.
ROUNDS ?= 200
QUESTIONS ?= 10000
MINUTES ?= 30

soak: setup swift
	@$(SWIFT) build --build-tests
	@MILLRACE_TEST_ROUNDS=$(ROUNDS) MILLRACE_TEST_QUESTIONS=$(QUESTIONS) $(SWIFT) test --skip-build --disable-xctest \
	  --filter '^FaultTests\.FaultSuite/(ProcessFaultTests/(killed|soak)|GroupFaultTests/rebalanceStorm)' \
	  --filter '^FaultTests\.FaultSuite/(ServerFaultTests/(killed|storeKilled|fighting)|GroundFaultTests/powerCuts|SimulatedFaultTests)' \
	  --filter '^PipelineTests\.PipelineTests/(KillTests/killsProxy|PowerTests)' \
	  --filter '^StoreTests\.(MetadataOracleTests|QuestionTests|ReplayTests/commandsKilled)' \
	  --filter '^PureTests\.NormalizerTests/itAgrees'
	@MILLRACE_TEST_CLUSTER=main=2x2 MILLRACE_TEST_SKIP=postgresql $(SWIFT) test --skip-build --disable-xctest \
	  --filter '^StoreTests\.'
	@$(MAKE) --no-print-directory test-deploy
	@Tests/Deploy/upgrade
	@Tests/Deploy/soak --binary .build/release/millrace --minutes $(MINUTES)

mutants: setup swift
	@Tests/Mutants/mutants.py

# A finding is left as a file beside the corpus, and is replayed by the same command with the file as its argument.
FUZZ_SECONDS ?= 60

fuzz: swift
	@SWIFTC=$(dir $(SWIFT))swiftc Tests/Fuzz/run $(FUZZ_SECONDS)

# Built beside the other builds, once for each; a leak, a race or a bad access is a failed run. What is known and not
# ours is named in Tests/Support/*.suppressions, each with its reason.
SANITIZERS ?= address thread
SANITIZED ?= Proxy HTTP Journal KeyKeeping
SANITIZE_SECONDS ?= 600
LSAN := suppressions=$(CURDIR)/Tests/Support/leaks.suppressions:print_suppressions=0
TSAN := suppressions=$(CURDIR)/Tests/Support/races.suppressions:print_suppressions=0:halt_on_error=0

sanitize: setup swift
	@for kind in $(SANITIZERS); do \
	  place=.build-sanitize/$$kind; \
	  $(SWIFT) build --build-tests --sanitize=$$kind --scratch-path $$place; \
	  for suite in $(SANITIZED); do \
	    echo "-- $${suite}Tests, $$kind sanitizer"; log=$$(mktemp); \
	    if LSAN_OPTIONS="$(LSAN)" TSAN_OPTIONS="$(TSAN)" timeout $(SANITIZE_SECONDS) $(SWIFT) test --skip-build \
	      --no-parallel --disable-xctest --sanitize=$$kind --scratch-path $$place --filter "^$${suite}Tests\." \
	      >"$$log" 2>&1 && ! grep -aq 'SUMMARY: [A-Za-z]*Sanitizer' "$$log"; then \
	      grep -a 'Test run with' "$$log" || { cat "$$log"; rm "$$log"; echo "no test ran" >&2; exit 1; }; rm "$$log"; \
	    else cat "$$log"; rm "$$log"; echo "$${suite}Tests failed under the $$kind sanitizer" >&2; exit 1; fi; \
	  done; \
	done

deb: packages build
	@deploy/debian/build --binary .build/release/millrace --out .build/packages

tarball: packages build
	@deploy/debian/build --binary .build/release/millrace --out .build/packages --tarball

# Files of deploy/ and docs/ against what the program prints and running roles show. Half a minute.
BINARY ?= .build/debug/millrace

check-deploy: setup swift
	@$(SWIFT) build --product millrace
	@MILLRACE_TEST_BINARY=$(BINARY) Tests/Deploy/check

# Two bare systems made with debootstrap; as root.
test-deploy: check-deploy build
	@Tests/Deploy/install --binary .build/release/millrace

RATE ?= 10000

size:
	@deploy/size $(RATE)

sbom:
	@deploy/sbom

format: swift
	@$(SWIFT) format --in-place --recursive --parallel $(SOURCES)

lint: swift
	@$(SWIFT) format lint --strict --recursive --parallel $(SOURCES)
	@.ci/check-imports

schemas: swift
	@$(SWIFT) build --product millrace
	@text=$$(.build/debug/millrace config schema); printf '%s\n' "$$text" >schemas/configuration.schema.json

clean:
	@rm -rf .build .build-sanitize .venv
