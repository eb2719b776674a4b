# An alias for people: every target does its own set-up, and is a no-op where it is done.
#   make bench                  the study that suits this machine: core with a GPU, tuned, quick without
#   make bench TUNE=yes         tune any study here first, or none: TUNE=no
#   make bench STUDY=smoke MODEL=path/or/name
#   make perf                   how fast it is, against what others do; PERF=small: the edition of two CPU cores
#   make bench TORCH_INDEX=https://download.pytorch.org/whl/cpu      another build of torch
STUDY ?= auto
# As `lorabench run auto` chooses: with a GPU that is core, which counts when it is tuned.
GPU := $(shell nvidia-smi -L 2>/dev/null | grep -q 'GPU 0' && echo yes)
CHOSEN := $(if $(filter auto,$(STUDY)),$(if $(GPU),core,quick),$(STUDY))
MODEL ?=
# Settings that ship with a study need no tuning; what was chosen here before stays.
SHIPPED := $(if $(MODEL),,$(wildcard tasks/studies/tuned/$(CHOSEN).json))
TUNE ?= $(if $(SHIPPED),shipped,$(if $(filter core core_arms,$(CHOSEN)),$(GPU)))
EXECUTOR ?= ray
# What `make perf` measures: full on a GPU, small on two CPU cores.
PERF ?= $(or $(LORABENCH_PERF),$(if $(GPU),full,small))
PYTHON ?= python3
TORCH_INDEX ?=

BIN := .venv/bin
READY := .venv/.ready
MODEL_OPTION := $(if $(MODEL),--model $(MODEL))
SMALL_OUT := results/perf/small
SMALL := $(if $(filter small,$(PERF)),--small --out $(SMALL_OUT))
# With an NVIDIA driver also the fused kernels.
EXTRAS := dev$(if $(shell command -v nvidia-smi),$(shell printf ',gpu'))
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: bench test lint report reference perf clean setup

bench: setup
	$(BIN)/lorabench fetch $(STUDY) $(MODEL_OPTION)
	$(if $(filter yes 1,$(TUNE)),$(BIN)/lorabench tune $(STUDY) $(MODEL_OPTION) --executor $(EXECUTOR))
	$(if $(filter shipped,$(TUNE)),$(if $(wildcard results/$(CHOSEN)/tuning.json),,$(BIN)/lorabench tune $(STUDY) --shipped))
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

# Speed, against what others do with the same: on one H200 some 25 minutes, into results/perf; the small edition five on
# two CPU cores, with tiny models and into a folder that git ignores.
perf: setup
	$(BIN)/lorabench fetch $(if $(SMALL),smoke,core)
	$(BIN)/lorabench perf train $(SMALL)
	$(BIN)/lorabench perf score $(SMALL)
	$(BIN)/lorabench perf intruders $(if $(SMALL),--model random:tiny --ranks 8 --repeats 1 --out $(SMALL_OUT))
	$(BIN)/lorabench perf methods $(SMALL)
	$(BIN)/lorabench perf campaign $(SMALL)
	$(BIN)/lorabench perf verbs $(if $(SMALL),--study smoke --repeats 1 --out $(SMALL_OUT))
	$(BIN)/lorabench perf records $(if $(SMALL),--records 300 --out $(SMALL_OUT))
	$(BIN)/lorabench perf jobs $(SMALL)

# Removes what can be made again; never results or the cache of models and data.
clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .hypothesis .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

setup: $(READY)

# pip would compile on one core, and the tests of libraries too.  Some wheels hold files that no Python can compile.
$(READY): pyproject.toml setup.py constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(if $(TORCH_INDEX),$(PIP) install --quiet --no-compile --constraint constraints.txt --index-url $(TORCH_INDEX) torch)
	$(PIP) install --quiet --no-compile --constraint constraints.txt --editable '.[$(EXTRAS)]'
	$(BIN)/python -m compileall -qq -j 0 -x '/tests?/' .venv/lib || true
	touch $(READY)
