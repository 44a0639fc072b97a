# `make demo` and `make test` need nothing but Python (3.11 or later) and make: they set up .venv themselves.
PYTHON ?= python3
BIN := .venv/bin
DEMO_OUT ?= demo
DATA ?= ../shared/data/flickr8k

.PHONY: demo test check check-style faults bench clean

demo: .venv/ready
	$(BIN)/truetag demo --out $(DEMO_OUT)

test: .venv/ready
	$(BIN)/pytest

check-style: .venv/ready
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/pyright

# what CI runs
check: check-style test

# kill -9 at 20 random moments, and whatever else the faults' tests break; minutes
faults: .venv/ready
	$(BIN)/python tests/faults/kills.py --kills 20
	$(BIN)/pytest tests/faults

bench: .venv/ready
	$(BIN)/python benchmarks/methods.py --flickr8k $(DATA) --work runs/methods

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev,offline,pos]"
	touch $@

clean:
	rm -rf .venv demo runs
