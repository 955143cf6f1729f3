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
# arguments of `dpqlab app`
APP ?=
# parts of the release check; all when empty
PARTS ?=
# processes for the fast tests: each takes a core and 2 GB
WORKERS ?= 4
# models of the real size are worth two threads, the tiny ones of the fast tests are not
THREADS := OMP_NUM_THREADS=$${OMP_NUM_THREADS:-2}

.DEFAULT_GOAL := help
.PHONY: help setup demo app lab test test-slow test-notebooks test-browser check notebooks gallery \
  wheelhouse bench release-check fmt lock licences clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

setup: ## make .venv and install into it
	@$(SETUP)
	@echo "$(VENV) is up to date. Try: make demo"

$(STAMP): pyproject.toml requirements.lock tools/setup.py
	@$(SETUP)

demo: $(STAMP) ## compress the bundled model and show the result
	@$(BIN)/dpqlab demo

app: $(STAMP) ## open the app in a browser (APP="--port 8000 FOLDER" and the like go to it)
	@$(BIN)/dpqlab app $(APP)

lab: $(STAMP) ## open the notebooks in JupyterLab
	@$(BIN)/python -m tools.lab

test: $(STAMP) ## the fast tests, in up to WORKERS processes
	@$(BIN)/python -m pytest -n logical --maxprocesses $(WORKERS) --dist loadfile

test-slow: $(STAMP) ## the tests that take longer
	@$(THREADS) $(BIN)/python -m pytest -m "slow and not gpu and not browser"

test-notebooks: $(STAMP) ## run every notebook from top to bottom
	@$(THREADS) $(BIN)/python -m pytest -m notebook tests/notebooks

test-browser: $(STAMP) ## the views in JupyterLab in a headless Chromium, where there is one
	@$(THREADS) $(BIN)/python -m pytest -m browser tests/browser

check: $(STAMP) ## format, lint, types, layers and the rules of the repository
	@$(BIN)/python -m tools.check

bench: $(STAMP) ## run the benchmarks that suit a CPU (SUITES="fashion ..." picks others)
	@for suite in $(SUITES); do $(BIN)/python -m benchmarks.$$suite || exit 1; done
	@$(BIN)/python -m benchmarks.tables --write

release-check: $(STAMP) ## all that SECURITY.md promises, run and recorded: hours (PARTS="supply network" picks)
	@$(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[release]" || echo "pip-audit is not to be had here"
	@$(BIN)/python -m benchmarks.release_check $(PARTS); held=$$?; \
	  $(BIN)/python -m benchmarks.tables --write && exit $$held

notebooks: $(STAMP) ## make the .ipynb anew from the .py beside them
	@$(BIN)/python -m tools.notebooks --write

gallery: $(STAMP) ## render the notebooks to out/gallery, pages without a server
	@$(BIN)/python -m tools.gallery --pictures docs/gallery

wheelhouse: $(STAMP) ## collect all that a room of machines needs to install without internet
	@$(BIN)/python -m tools.wheelhouse

fmt: $(STAMP) ## format, and mend what the linter can mend
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format .

lock: $(STAMP) ## write requirements.lock anew from pyproject.toml (needs uv)
	@$(BIN)/python -m tools.lock

licences: $(STAMP) ## list the licences of what is locked in docs/licences.md
	@$(BIN)/python -m tools.licences --write

clean: ## remove the environment and caches
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis .import_linter_cache
