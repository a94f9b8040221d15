.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench clean

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.medformer-installed
# The first of these that the lock has wheels for creates the environment, else the first that is at least new enough;
# `make setup PYTHON=...` chooses another.
PYTHON ?=
# Each takes up to 2 GB.
TEST_PROCESSES ?= 2
CANDIDATES := $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python)
LOCKED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## Create .venv and install the locked packages and medformer (quick when that is done)

$(STAMP): requirements.lock pyproject.toml
	@if [ ! -x $(BIN)/python ]; then \
	  for test in '$(LOCKED)' '$(NEW_ENOUGH)'; do \
	    for candidate in $(CANDIDATES); do \
	      if $$candidate -c "$$test" >/dev/null 2>&1; then chosen=$$candidate; break 2; fi; \
	    done; \
	  done; \
	  if [ -z "$$chosen" ]; then \
	    echo "error: no Python 3.11 or newer among: $(CANDIDATES). Install one, or name it: make setup PYTHON=/path/to/python3" >&2; \
	    exit 2; \
	  fi; \
	  echo "Creating $(VENV) with $$chosen"; \
	  $$chosen -c '$(LOCKED)' || \
	    echo "note: the locked packages have wheels for Python 3.11 to 3.13; this newer one may have to compile some" >&2; \
	  $$chosen -m venv $(VENV) || { \
	    echo "error: $$chosen could not create $(VENV); on Debian and Ubuntu the package python3-venv is needed" >&2; exit 2; }; \
	fi
	@$(BIN)/python -c '$(NEW_ENOUGH)' || { \
	  echo "error: $(VENV) has a Python older than 3.11; remove the folder and run make setup again" >&2; exit 2; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup ## Run the main job on synthetic images; ends with the path of the report
	$(BIN)/medformer demo --out demo-run --overwrite

test: setup ## Run the tests, except the slow ones and those that need a GPU
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

lint: setup ## Check style, format, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup ## Measure speed against peers, as JSON
	$(BIN)/python benchmarks/backbone_speed.py --json

clean: ## Remove caches, builds and the demo's run; the environment stays
	rm -rf build dist demo-run .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find medformer pipelines tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
