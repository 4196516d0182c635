# `make demo` and `make test` do everything on a machine with Python 3.11 and make.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WORKERS ?= 2
SITE := $(BIN)/sphinx-build --fresh-env --fail-on-warning --keep-going --quiet

export OMP_NUM_THREADS ?= $(if $(filter test test-slow,$(MAKECMDGOALS)),1,)
ifeq ($(OMP_NUM_THREADS),)
unexport OMP_NUM_THREADS
endif

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow docs docs-quick benchmark house format clean

help:  ## say what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /make \1\t/' | expand -t 18

demo: $(READY)  ## set up, then run the main job on a simulated cohort (a few minutes)
	rm -rf demo
	$(BIN)/semantoks demo demo
	@echo "Open demo/run/report.html in a browser."

test: $(READY)  ## set up, then check format, lint, types, imports, tests and doctests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -n $(WORKERS) -m "not slow"

test-slow: $(READY)  ## the longer proofs
	$(BIN)/pytest -n $(WORKERS) -m slow

docs: $(READY)  ## set up, then make the site, its examples run: docs/_build/index.html
	$(SITE) docs docs/_build

docs-quick: $(READY)  ## the site without running its examples
	$(SITE) -D plot_gallery=0 docs docs/_build

benchmark: $(READY)  ## measure everything that is said to be fast beside a plain path
	$(BIN)/python benchmarks/all.py --json benchmark.json

house: $(READY)  ## measure the source: lines, files, docstrings, and the files that a verb enters
	$(BIN)/python benchmarks/house.py --flows

format: $(READY)  ## put the code into the house's form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the environment and what was made
	rm -rf $(VENV) demo docs/_build docs/gallery docs/reference .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: apt-get install python3 python3-venv"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11; say which one to use: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip' || { echo "Python's venv is missing: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,docs]'
	touch $@
