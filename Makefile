# demo · test · check · docs · bench: each does its own set-up. Variables: PYTHON, TORCH_INDEX, PIP_EXTRA, DATA.
#
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu   takes torch's CPU build from there (Linux default: CUDA build)
#   make test PYTHON=python3.12                                  names the Python to use

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(PIP_EXTRA)

.PHONY: help demo test pytest check docs bench soak soak-cluster recipe-keys clean

help:
	@echo "make demo    install, then train, evaluate and explain a model on synthetic heads: demo/report.html"
	@echo "make test    install, then lint, types, import contract and tests"
	@echo "make check   lint, types and import contract only"
	@echo "make docs    build the documentation site with its examples: docs/_build/html/index.html"
	@echo "make bench   time training steps, attention, prediction and the service beside peers; DATA=FOLDER: training too (hours)"
	@echo "make soak    200 series through Orthanc and the DICOM node, which is killed 20 times"
	@echo "make soak-cluster    2,000 predictions on two Ray nodes, of which workers, a node and the driver are killed"

$(VENV)/.base: pyproject.toml constraints.txt
	@echo "Installing into $(VENV): about 2 GB, some minutes the first time" >&2
	@test -x $(BIN)/python || "$$(PYTHON="$(PYTHON)" scripts/find-python)" -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "pip>=25.1"
	@$(if $(TORCH_INDEX),$(PIP) --index-url $(TORCH_INDEX) torch)
	@$(PIP) -e ".[all]"
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	@$(PIP) --group dev
	@touch $@

$(VENV)/.docs: $(VENV)/.base
	@$(PIP) --group docs
	@touch $@

$(VENV)/.bench: $(VENV)/.base
	@$(PIP) --group bench
	@touch $@

demo: $(VENV)/.base
	@$(BIN)/reslink demo --out demo --overwrite

check: $(VENV)/.dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

# the checks use one core, so the tests start beside them; where a check fails, its message stands above those of the tests
test: $(VENV)/.dev $(VENV)/.docs
	@scripts/install-debian-packages
	@$(MAKE) --no-print-directory -j 2 check pytest

# Without bytecode, each of the processes that the tests start would compile the package again. A worker that dies is not replaced:
# pytest-xdist 3.8 may then wait forever for the tests that it gives to the new one.
pytest: export PYTHONDONTWRITEBYTECODE :=
pytest: $(VENV)/.dev $(VENV)/.docs
	@$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder --max-worker-restart 0 --durations 20

# a warning, a reference that leads nowhere and an example that fails each fail the build
docs: $(VENV)/.docs
	@$(BIN)/sphinx-build -W -n --keep-going -q docs docs/_build/html
	@echo "docs/_build/html/index.html"

# the peers' learning rates are tried at the shortest budget; RECIPE is that of our network
TIME_TO_RESULT = $(BIN)/python benchmarks/time_to_result.py run "$(DATA)" --out runs/time_to_result.jsonl $(if $(RECIPE),--recipe "$(RECIPE)")

bench: $(VENV)/.bench
	@$(BIN)/python benchmarks/train_step.py
	@$(BIN)/python benchmarks/attention.py
	@OMP_NUM_THREADS=1 $(BIN)/python benchmarks/prediction.py ct $(if $(DATA),--data "$(DATA)")
	@$(BIN)/python benchmarks/serving_load.py ct
	@$(if $(DATA),$(foreach rate,3e-4 1e-3 3e-3,$(TIME_TO_RESULT) --budgets 1 --lr $(rate) &&) $(TIME_TO_RESULT) --lr best)
	@$(if $(DATA),$(BIN)/python benchmarks/time_to_result.py table runs/time_to_result.jsonl --plot runs)

soak: $(VENV)/.dev
	@scripts/install-debian-packages
	@$(BIN)/python tests/soak/soak.py $(SOAK)

soak-cluster: $(VENV)/.dev
	@$(BIN)/python tests/soak/cluster.py $(SOAK)

recipe-keys: $(VENV)/.dev
	@$(BIN)/python scripts/recipe_reference.py --write

clean:
	rm -rf $(VENV) demo docs/_build docs/_generated docs/auto_examples .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
