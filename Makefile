# Two commands are enough: `make demo` and `make test`. Both install into .venv first.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
PIP_ARGS ?=
PYTEST_ARGS ?= -q -n 2 --dist loadfile

.PHONY: install demo test test-slow lint format clean

install: $(STAMP)

demo: $(STAMP)
	@$(PY) -m studio.cli demo --out out

# One thread per test process: two processes with all threads each are slower than one.
test: export OMP_NUM_THREADS ?= 1
test: lint
	@$(PY) -m pytest $(PYTEST_ARGS)

# What takes longer than a few seconds each: more of the browser, kills, real weights.
test-slow: export OMP_NUM_THREADS ?= 1
test-slow: $(STAMP)
	@$(PY) -m pytest $(PYTEST_ARGS) -m slow

lint: $(STAMP)
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

format: $(STAMP)
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache

# The stamp is written last, so an interrupted install is repeated; when neither file has
# changed nothing is done at all.
$(STAMP): pyproject.toml constraints.txt .ci/venv
	@.ci/venv $(VENV)
	@$(PY) -m pip install --quiet $(PIP_ARGS) -c constraints.txt -e '.[demo,dev,portrait,train,ui]'
	@touch $@
