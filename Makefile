# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later

SHELL := /bin/bash
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help demo test test-fast test-hosts lint sanity format bench setup changelog artifact clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Start the virtual site, run the main job on it, show what happened
	@tools/setup.sh run
	@tools/demo.sh

test: ## Pass every check and test (.ci/run calls this)
	@tools/setup.sh dev
	@.venv/bin/python tools/check.py test

test-fast: ## The core's and the control node's unit tests, without running Ansible
	@tools/setup.sh dev
	@.venv/bin/python tools/check.py test-fast

test-hosts: ## The tests on hosts that boot Debian in containers; needs root
	@tools/setup.sh dev
	@.venv/bin/python tools/check.py test-hosts

lint: ## Every static check, with ansible-test sanity on one ansible-core
	@tools/setup.sh dev
	@.venv/bin/python tools/check.py lint

sanity: ## ansible-test sanity on the oldest, the usual and the newest ansible-core
	@tools/setup.sh dev
	@.venv/bin/python tools/check.py sanity

format: ## Format the Python files
	@tools/setup.sh dev
	@.venv/bin/ruff check --fix; .venv/bin/ruff format

bench: ## Measure the speeds that are promised, as ratios
	@tools/setup.sh dev
	@tools/bench.sh

setup: ## Only what the other targets set up before they start
	@tools/setup.sh dev

changelog: ## Turn the fragments into a release of galaxy.yml's version
	@tools/setup.sh dev
	@.venv/bin/antsibull-changelog release --reload-plugins

artifact: ## Build the collection's artifact into .cache/artifact
	@tools/setup.sh run
	@.venv/bin/ansible-galaxy collection build --force --output-path .cache/artifact

clean: ## Remove everything that was made here
	rm -rf .venv .cache .virtual .ansible .*_cache .hypothesis
