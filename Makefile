# An alias for people: every target does its own set-up, and is a no-op where it is done.
#   make bench                  the study that suits this machine: core with a GPU, tuned first, quick without
#   make bench TUNE=yes         tune any study first, or none: TUNE=no
#   make bench STUDY=smoke MODEL=path/or/name
#   make bench TORCH_INDEX=https://download.pytorch.org/whl/cpu      another build of torch
STUDY ?= auto
# As `lorabench run auto` chooses: with a GPU that is core, which counts when it is tuned.
GPU := $(shell nvidia-smi -L 2>/dev/null | grep -q 'GPU 0' && echo yes)
TUNE ?= $(if $(filter auto core core_arms,$(STUDY)),$(GPU))
MODEL ?=
EXECUTOR ?= ray
PYTHON ?= python3
TORCH_INDEX ?=

BIN := .venv/bin
READY := .venv/.ready
MODEL_OPTION := $(if $(MODEL),--model $(MODEL))
# With an NVIDIA driver also the fused kernels.
EXTRAS := dev$(if $(shell command -v nvidia-smi),$(shell printf ',gpu'))
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: bench test lint report reference perf clean setup

bench: setup
	$(BIN)/lorabench fetch $(STUDY) $(MODEL_OPTION)
	$(if $(filter yes,$(TUNE)),$(BIN)/lorabench tune $(STUDY) $(MODEL_OPTION) --executor $(EXECUTOR))
	$(BIN)/lorabench run $(STUDY) $(MODEL_OPTION) --executor $(EXECUTOR)

# A file stays in one worker: what its tests share is made once.
test: setup
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright

report: setup
	$(BIN)/lorabench report $(STUDY) $(MODEL_OPTION)

# Of the reference runs the records are committed, with leaderboard.csv, report.md and its figures: this makes the
# rest (pages, trials.csv, vector figures, their numbers), the same bytes wherever it runs.
reference: setup
	$(BIN)/lorabench report --all --out results/reference

perf: setup
	$(BIN)/lorabench perf train

# Removes what can be made again; never results or the cache of models and data.
clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .hypothesis .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

setup: $(READY)

$(READY): pyproject.toml setup.py constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(if $(TORCH_INDEX),$(PIP) install --quiet --constraint constraints.txt --index-url $(TORCH_INDEX) torch)
	$(PIP) install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	touch $(READY)
