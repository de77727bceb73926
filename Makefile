# Everything a new machine needs: Python 3.11 or later and make. The virtual environment is the project's own.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: setup demo test test-slow test-tools faults fuzz lint bench screenshots clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[demo,dev]'
	touch $@

demo: setup
	$(BIN)/advisor recommend --demo --out recommendation

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2

test-slow: setup
	EXAMPLES=new OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 -m 'slow or not slow'

# Exported files run by axolotl, LLaMA-Factory and TRL, each in an environment of its own under .tools/ (5 GB).
test-tools: setup
	OMP_NUM_THREADS=1 $(BIN)/python tests/tools/run.py

# Kills real commands, fills their disk (root only) and races them: an hour. What failed is in faults-failed.
faults: setup
	OMP_NUM_THREADS=1 $(BIN)/python tests/campaign/faults.py

# Odd data, models, probes, files and options: what ends in neither a result nor one line is kept in .fuzz.
fuzz: setup
	OMP_NUM_THREADS=1 $(BIN)/python tests/campaign/fuzz.py --inputs 3000

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup
	$(BIN)/python benchmarks/probe.py
	$(BIN)/python benchmarks/cost.py
	$(BIN)/python benchmarks/search.py
	$(BIN)/python benchmarks/terminal.py
	$(BIN)/python benchmarks/validity.py

screenshots: setup
	$(BIN)/python docs/screenshots.py
	$(BIN)/python docs/report_screenshots.py
	$(BIN)/python docs/recording.py
	$(BIN)/python docs/terminal_page.py

clean:
	rm -rf $(VENV) .tools recommendation .pytest_cache .mypy_cache .ruff_cache .hypothesis
