# Build, run and check Millrace. `make run` is the five-minute start; `make test` is what a change must pass.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
SWIFT := $(firstword $(shell command -v swift 2>/dev/null) $(wildcard /opt/swift/usr/bin/swift))
PYTHON ?= /usr/bin/python3
PACKAGES := deploy/debian-packages.txt
SOURCES := Package.swift Sources Tests schemas

.PHONY: help setup packages clients swift run build test soak mutants fuzz format lint schemas clean
help:
	@echo "make run      set up, build for release, start the demo"
	@echo "make build    build for release: .build/release/millrace"
	@echo "make test     set up, build for debugging with warnings as errors, run all tests (SUITES=Proxy: one suite)"
	@echo "make soak     the fault tests' loops for longer (ROUNDS=200)"
	@echo "make mutants  break the consumer on purpose, one way at a time; a test must notice each"
	@echo "make setup    install what is missing: system packages ($(PACKAGES)), clients for tests (.venv)"
	@echo "make fuzz     fuzz both sides of HTTP and the reading of bodies (FUZZ_SECONDS=60: for each of the three)"
	@echo "make format   format the sources; make lint checks them"
	@echo "make schemas  write schemas/configuration.schema.json anew from the table of keys"
	@echo "make clean    remove everything built"

setup: packages clients

packages:
	@names=$$(sed -e 's/#.*//' -e '/^\[/d' -e '/^ *$$/d' $(PACKAGES)); missing=""; \
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

# The demo needs no test clients.
run: packages build
	@exec .build/release/millrace up --demo

build: swift
	@$(SWIFT) build -c release --product millrace

# One suite of the package at a time: each has the machine, its servers and its deadlines to itself.
SUITES ?= $(patsubst Tests/%Tests,%,$(wildcard Tests/*Tests))

test: setup swift
	@$(SWIFT) build --build-tests
	@for suite in $(SUITES); do \
	  echo "-- $${suite}Tests"; log=$$(mktemp); \
	  if $(SWIFT) test --skip-build --disable-xctest --filter "^$${suite}Tests\." >"$$log" 2>&1; then \
	    grep 'Test run with' "$$log" || { cat "$$log"; rm "$$log"; echo "no test ran" >&2; exit 1; }; rm "$$log"; \
	  else cat "$$log"; rm "$$log"; echo "$${suite}Tests failed; again: make test SUITES=$$suite" >&2; exit 1; fi; \
	done

# Kills, rebalances and restarts, ROUNDS times each; 200 take about an hour on two cores.
ROUNDS ?= 200

soak: setup swift
	@$(SWIFT) build --build-tests
	@MILLRACE_TEST_ROUNDS=$(ROUNDS) $(SWIFT) test --skip-build --disable-xctest \
	  --filter '^FaultTests\.FaultSuite/(ProcessFaultTests/killed|GroupFaultTests/rebalanceStorm)'

mutants: setup swift
	@Tests/Mutants/mutants.py

# A finding is left as a file beside the corpus, and is replayed by the same command with the file as its argument.
FUZZ_SECONDS ?= 60

fuzz: swift
	@SWIFTC=$(dir $(SWIFT))swiftc Tests/Fuzz/run $(FUZZ_SECONDS)

format: swift
	@$(SWIFT) format --in-place --recursive --parallel $(SOURCES)

lint: swift
	@$(SWIFT) format lint --strict --recursive --parallel $(SOURCES)
	@.ci/check-imports

schemas: swift
	@$(SWIFT) build --product millrace
	@text=$$(.build/debug/millrace config schema); printf '%s\n' "$$text" >schemas/configuration.schema.json

clean:
	@rm -rf .build .venv
