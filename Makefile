PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PARITY := $(VENV)/.installed_parity

.PHONY: setup quickstart test slow lint bench clean

setup: $(STAMP)

$(STAMP): requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

# PyTorch and transformers, which only tests compare with.
$(PARITY): $(STAMP)
	$(BIN)/python -m pip install --quiet --editable '.[parity]'
	touch $@

quickstart: $(STAMP)
	$(BIN)/python tools/quickstart.py

# Two at a time: a test keeps one core busy. A file stays in one process, so what its tests share is made once.
test: $(PARITY)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

slow: $(PARITY)
	$(BIN)/python -m pytest -m slow

# Half an hour on two slow idle cores; goes on where it was stopped.
bench: $(PARITY)
	$(BIN)/python benchmarks/step.py --json runs/bench/step.json --picture runs/bench/step.png

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache
