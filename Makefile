# Stile. `make demo` shows it, `make test` proves it; `make` alone lists the other targets.
SHELL := /bin/sh
.DEFAULT_GOAL := help
export PATH := $(CURDIR)/.tools/node/bin:$(PATH)

.PHONY: help setup setup-test demo test check sim bench bench-peers bundle bundle-cloud deb deb-cloud release prove prove-install prove-kernel prove-release prove-tests mutants figures lint format types hooks clean schema

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 22

setup: ## what is missing: the pinned runtime and the libraries, into this checkout
	@deploy/setup

setup-test: ## the same, and what the tests need (Mosquitto)
	@deploy/setup test

demo: setup ## the whole system on one screen; ONCE=1 ends after 200 guests with a table
	@exec node deploy/demo/demo.ts

test: setup-test ## every test, real broker and real Postgres included
	@node test/run.ts all

check: setup ## types, lint, unit tests: under a minute
	@node test/run.ts check

bundle-cloud: setup ## what the cloud's server runs: dist/cloud-<arch>
	@node deploy/bundle.ts cloud $(ARCH)

bundle: setup ## what a gate runs, without npm: dist/gate-<arch>; ARCH=arm64 for a Pi
	@node deploy/bundle.ts $(ARCH)

deb: setup ## the gate as a Debian package; ARCH=arm64 for a Pi
	@node deploy/deb.ts gate $(ARCH)

deb-cloud: setup ## the cloud as a Debian package
	@node deploy/deb.ts cloud $(ARCH)

release: setup ## packages and archives of gate and cloud for arm64 and amd64, bills of materials, checksums; KEY=release.key signs them
	@node deploy/release.ts $(if $(KEY),--key $(KEY)) $(if $(ARCH),--arch $(ARCH))

sim: setup ## gates, broker and cloud under a seeded scheduler: SEED=1 HISTORIES=20000; MUTANTS=1 for the planted faults; HISTORY= to see one again
	@node test/simulation/main.ts $(if $(SEED),--seed $(SEED)) $(if $(HISTORIES),--histories $(HISTORIES)) $(if $(WORKERS),--workers $(WORKERS)) $(if $(SQL_EVERY),--sql-every $(SQL_EVERY)) \
	  $(if $(HISTORY),--history $(HISTORY)) $(if $(ALONE),--alone) $(if $(GATES),--gates $(GATES)) $(if $(STEPS),--steps $(STEPS)) $(if $(MUTANTS),--mutants) $(if $(MUTANT),--mutant $(MUTANT))

prove: setup-test ## every promise of docs/PROMISES.md, shown the long way (about an hour); ROWS="1 7" for some
	@node test/prove.ts --write $(ROWS)

prove-install: setup ## INSTALL.md typed into empty Debian 12 and 13, to the first guest; then installer and units in a Debian of their own: at real speed, then emulated arm64 (root, QEMU)
	@node test/guest/install.ts bookworm
	@node test/guest/install.ts trixie
	@node test/guest/prove.ts native
	@node test/guest/prove.ts emulated

prove-kernel: setup-test ## the gate on Debian's kernel with a simulated Pi header, in QEMU; KERNEL=full: both drivers and 30 ends in mid-pulse (10 minutes and more)
	@node node_modules/vitest/vitest.mjs run --project kernel

prove-release: setup-test ## 300 kills, hangs, stops and disk faults in mid-pulse with the unit's own stop step (5 to 7 minutes)
	@STILE_PROVE=1 node node_modules/vitest/vitest.mjs run --project system test/system/kills.test.ts

bench: setup ## what was measured, measured again: the way of a code, ten thousand guests through the loop, start and memory, the rules, the account, manifests, scanners beside an upload (some minutes)
	@node bench/path.ts --codes 300
	@node bench/loop.ts
	@node bench/start.ts
	@node bench/rules.ts
	@node bench/reconcile.ts
	@node bench/manifest.ts
	@node bench/scans.ts

bench-peers: setup-test bundle ## the same beside a Node-RED flow, a Python script and bare C (fetches and compiles them first; bench/peers/README.md)
	@node bench/peers/edge.ts
	@node bench/peers/ingest.ts

schema: setup ## writes cloud/db/schema.snapshot.txt anew, after a change of SQL
	@node cloud/db/testing/write-snapshot.ts

hooks: ## types and lint before each commit in this checkout; `git config --unset core.hooksPath` ends it
	@git config core.hooksPath .githooks

types: setup ## the compiler's types
	@node_modules/.bin/tsc -p .

prove-tests: setup-test ## every test in its long form: more histories, more rounds (an hour)
	@STILE_PROVE=1 node node_modules/vitest/vitest.mjs run

mutants: setup-test ## faults planted in the product one at a time, each with the tests that must notice it; ONLY="part of a name" for some (half an hour)
	@node test/mutants/run.ts $(if $(ONLY),--only "$(ONLY)")

figures: setup ## the tree in figures: files, rooms, circles, planted violations, SQL; 20 comments drawn by SEED=1
	@node test/tidy/figures.ts $(if $(SEED),--seed $(SEED))

lint: setup ## form and rules of the code
	@node_modules/.bin/biome check .

format: setup ## the same, corrected where that can be done
	@node_modules/.bin/biome check --write .

clean: ## removes what was fetched and built
	rm -rf node_modules .tools dist
