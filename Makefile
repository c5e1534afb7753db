# The first target that needs it makes one virtual environment (.venv) with plain pip; later calls reuse it.
#
#   make demo    annotate real blood cells, write new ones, print the comparisons, write the report
#   make test    the test suite
#   make docs    the documentation, warnings are errors
#   make bench   benchmarks against peers
#   make lint    ruff, mypy, import-linter
#   make clean   remove what these made (the virtual environment too)
#
# Another interpreter: `make test PYTHON=python3.12 VENV=.venv-3.12`. More arguments: `make test ARGS="-k ontology"`.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=

BIN := $(VENV)/bin
RUN := $(BIN)/python

# Tested versions where there is a file for this Python, the newest allowed ones otherwise.
interpreter = $(shell test -x $(RUN) && echo $(RUN) || echo $(PYTHON))
version = $(shell $(interpreter) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
constraints = $(wildcard .github/constraints-$(version).txt)
INSTALL = $(RUN) -m pip install -qq $(addprefix -c ,$(constraints))
SOURCES := pyproject.toml $(wildcard .github/constraints-*.txt)

# Every test worker is one process: one thread each for BLAS and torch, two for numba, so that its parallel loops are
# tested as parallel loops.
TEST_THREADS := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 NUMBA_NUM_THREADS=2

export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help demo test docs bench lint format clean constraints
.DEFAULT_GOAL := help

help:
	@sed -n 's/^#   //p' Makefile

# Threads that wait for each other sleep instead of spinning: on a machine with other work that halves the time.
demo: $(VENV)/.for-demo
	OMP_WAIT_POLICY=PASSIVE $(RUN) -m sclm demo $(ARGS)

test: $(VENV)/.for-test
	$(TEST_THREADS) $(RUN) -m pytest -n auto $(ARGS)

docs: $(VENV)/.for-docs
	$(RUN) -m sphinx -W --keep-going -b html docs docs/_build/html $(ARGS)

bench: $(VENV)/.for-bench
	@for script in $(filter-out benchmarks/generation_% benchmarks/mapping_% benchmarks/perturb_%,$(wildcard benchmarks/*.py)); do echo "== $$script"; $(RUN) $$script $(ARGS) || exit 1; done

lint: $(VENV)/.for-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(VENV)/.for-lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist docs/_build docs/api/generated docs/jupyter_execute sclm-demo
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .coverage .coverage.*
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# Maintainers: resolve the newest versions for this Python again.
constraints: $(VENV)/.python
	$(RUN) .github/constraints.py $(ARGS)

# A stamp a step. When pyproject.toml or a constraints file changes, pip looks again (seconds when nothing is missing).
# Dependency groups need pip 25.1; the pip that comes with Python 3.11 is older.
$(VENV)/.python: $(SOURCES)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "sclm needs Python 3.11 or newer, found: $$($(PYTHON) --version 2>&1). Name one: make PYTHON=python3.12 ..." >&2; \
	  exit 1; }
	@test -x $(RUN) || echo "Creating $(VENV) with $$($(PYTHON) --version)"
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@$(INSTALL) "pip>=25.1"
	@touch $@

$(VENV)/.for-demo: $(VENV)/.python
	@echo "Installing sclm into $(VENV) (once; several minutes and about 3 GB, more where torch brings CUDA)"
	@$(INSTALL) -e .
	@touch $@

$(VENV)/.for-test: $(VENV)/.for-demo
	@echo "Installing what the tests need"
	@$(INSTALL) -e ".[atlas,dask,leiden,mcp,mudata,ontology]" --group test
	@touch $@

$(VENV)/.for-docs: $(VENV)/.for-demo
	@echo "Installing what the documentation needs"
	@$(INSTALL) -e . --group doc
	@touch $@

$(VENV)/.for-bench: $(VENV)/.for-demo
	@echo "Installing the peers of the benchmarks"
	@$(INSTALL) -e ".[ontology]" --group bench
	@touch $@

$(VENV)/.for-lint: $(VENV)/.for-demo
	@echo "Installing the linters"
	@$(INSTALL) -e . --group lint
	@touch $@
