# Every target sets itself up on a machine that has only Python 3.11 and make.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
WORKERS ?= 2

.PHONY: help setup demo test lint types check bench bench-growth evidence stress lock clean

help:            ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(READY)  ## make .venv and install the locked versions

$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "bequest needs Python 3.11 or newer: none was found on the PATH" >&2; exit 2; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "bequest needs Python 3.11 or newer: $(PYTHON) is older; set PYTHON=..." >&2; exit 2; }
	"$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(READY)   ## a model's whole life on the embedded corpora, in minutes (OUT=runs/demo)
	$(BIN)/bequest demo --out "$(or $(OUT),runs/demo)"

test: $(READY)   ## the whole test suite
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

lint: $(READY)   ## ruff: rules and format
	$(BIN)/ruff check src tests bench lab
	$(BIN)/ruff format --check --quiet src tests bench lab

types: $(READY)  ## mypy, strict on src/ and lab/
	$(BIN)/mypy

check: lint types test ## what CI runs

bench: $(READY)  ## tokens per second against transformers.Trainer; writes docs/benchmarks.md
	$(BIN)/python bench/throughput.py

bench-growth: $(READY) ## growing a checkpoint against cp and mergekit (30 GB, half an hour); writes docs/benchmarks.md
	$(BIN)/python bench/growth.py --work "$(or $(WORK),.)" --docs docs/benchmarks.md

evidence: $(READY) ## docs/evidence.md from the committed results of the lab
	$(BIN)/python -m lab evidence

stress: $(READY) ## kill a run at many random moments and compare the final weights (minutes)
	$(BIN)/python bench/kill_stress.py

lock: $(READY)   ## write requirements.lock from what .venv holds
	{ sed -n '1,2p' requirements.lock; $(BIN)/python -m pip freeze --all --exclude pip --exclude-editable | sed 's/+cpu//'; } > .lock.new && mv .lock.new requirements.lock

clean:           ## remove .venv and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build dist src/*.egg-info
