# `make demo` and `make test` work in a bare clone: they set up .venv first when there is none.
# PYTHON is the interpreter that makes the environment; TORCH=cpu picks the build without CUDA.
# On Windows without make: `python tools/setup.py`, then `.venv\Scripts\dpqlab demo`.

PYTHON ?= python3
VENV ?= .venv
TORCH ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/dpqlab-setup.json
SETUP := $(PYTHON) tools/setup.py --venv $(VENV) $(if $(TORCH),--torch $(TORCH))
# what two cores measure in minutes; `fashion` and `samplers` want a GPU, `copying` the data
SUITES ?= kmeans codecs demo

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow check bench fmt lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

setup: ## make .venv and install into it
	@$(SETUP)
	@echo "$(VENV) is up to date. Try: make demo"

$(STAMP): pyproject.toml requirements.lock tools/setup.py
	@$(SETUP)

demo: $(STAMP) ## compress the bundled model and show the result
	@$(BIN)/dpqlab demo

test: $(STAMP) ## the fast tests
	@$(BIN)/python -m pytest

test-slow: $(STAMP) ## the tests that take longer
	@$(BIN)/python -m pytest -m "slow and not gpu and not browser"

check: $(STAMP) ## format, lint, types, layers and the rules of the repository
	@$(BIN)/python -m tools.check

bench: $(STAMP) ## run the benchmarks that suit a CPU (SUITES="fashion ..." picks others)
	@for suite in $(SUITES); do $(BIN)/python -m benchmarks.$$suite || exit 1; done
	@$(BIN)/python -m benchmarks.tables --write

fmt: $(STAMP) ## format, and mend what the linter can mend
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format .

lock: $(STAMP) ## write requirements.lock anew from pyproject.toml (needs uv)
	@$(BIN)/python -m tools.lock

clean: ## remove the environment and caches
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis .import_linter_cache
