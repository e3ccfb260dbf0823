# Everything runs in .venv; nothing is installed outside it.
PYTHON ?= python3
VENV := .venv
BIN := $(abspath $(VENV))/bin
STAMP := $(VENV)/.installed

export PATH := $(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1
export DO_NOT_TRACK := true
export MLFLOW_ALLOW_PICKLE_DESERIALIZATION := false
export MLFLOW_DISABLE_TELEMETRY := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export GX_ANALYTICS_ENABLED := false
export OMP_WAIT_POLICY := PASSIVE
# A process that may not keep the bytecode of src/ compiles it again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install run test test-all coverage lint docs gpu ui lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | awk -F'|' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(STAMP) ## make .venv with the pinned dependencies

$(STAMP): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || \
		{ echo "make: $(PYTHON) is $$($(PYTHON) --version 2>&1); ClipBERT needs Python 3.11 or 3.12: make PYTHON=python3.12 ..." >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing the pinned dependencies (about 2 GB)"
	@scripts/install.sh $(BIN)/python
	@$(BIN)/python scripts/plots_page.py
	@touch $@

run: install ## the whole chain: sample data if there is none, all stages, a summary
	@scripts/run.sh

# Three workers by default, two on a single core (tests/support/suite.py); `make test WORKERS=8` starts eight.
WORKERS ?= auto
PYTEST = pytest -n $(WORKERS) --dist loadscope $(PYTEST_ARGS)

test: install ## the tests that start no process (no server, no DVC), in random order on all cores
	$(BIN)/python -m $(PYTEST) -m "not slow"

test-all: install ## the whole test suite: servers, DVC, browsers, kills and whole trainings too
	$(BIN)/python -m $(PYTEST)

coverage: install ## the whole test suite with the lines it runs; htmlcov/index.html shows them
	$(BIN)/coverage erase
	$(BIN)/coverage run -m $(PYTEST)
	$(BIN)/coverage combine -q
	$(BIN)/coverage html -q
	$(BIN)/coverage report | tail -n 1

lint: install ## ruff, mypy, spelling and prose
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/python scripts/check_prose.py

docs: install ## the documentation site: site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "Open site/index.html"

gpu: ## tests, benchmarks and trainings that need a GPU; .venv is not needed (GPU_ARGS=--dry-run without a GPU)
	@PYTHON=$(PYTHON) scripts/gpu.sh $(GPU_ARGS)

ui: install ## the MLflow and Prefect servers on 127.0.0.1
	@$(BIN)/python -m flows.ui

lock: ## refresh requirements.lock from pyproject.toml
	@scripts/lock.sh

clean: ## remove what the stages made (data/ and the MLflow store stay)
	rm -rf artifacts
