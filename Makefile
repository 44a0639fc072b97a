# `make demo` and `make test` need nothing but Python (3.11 or later) and make: they set up .venv themselves.
PYTHON ?= python3
BIN := .venv/bin
DEMO_OUT ?= demo
DATA ?= ../shared/data/flickr8k

.PHONY: demo test docs wheel check check-style faults bench clean

demo: .venv/ready
	$(BIN)/truetag demo --out $(DEMO_OUT)

test: .venv/ready
	$(BIN)/pytest

# into site/; a broken link or a warning is an error (with --quiet mkdocs would count none)
docs: .venv/ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --site-dir site

# the wheel and the source, and the wheel without extras in an environment of its own; minutes: it installs PyTorch once
# more. The demo is as small as can be: it shows that all parts of the wheel are there, and its scores mean nothing.
wheel: .venv/ready
	rm -rf dist build && mkdir build
	$(BIN)/python -m build --outdir dist >build/log || (cat build/log; exit 1)
	$(PYTHON) -m venv build/wheel
	build/wheel/bin/pip install --quiet --no-compile --constraint constraints.txt dist/*.whl
	cd build && export OMP_NUM_THREADS=1 && wheel/bin/truetag --help && wheel/bin/truetag doctor && wheel/bin/truetag demo --out wheel/demo --num-train 24 --num-test 8

check-style: .venv/ready
	$(BIN)/ruff format --check src tests benchmarks docs
	$(BIN)/ruff check src tests benchmarks docs
	$(BIN)/pyright

# what CI runs, apart from `make wheel`
check: check-style docs test

# kill -9 at 20 random moments, and whatever else the faults' tests break; minutes
faults: .venv/ready
	$(BIN)/python tests/faults/kills.py --kills 20
	$(BIN)/pytest tests/faults

bench: .venv/ready
	$(BIN)/python benchmarks/methods.py --flickr8k $(DATA) --work runs/methods

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev,docs,offline,pos]"
	touch $@

clean:
	rm -rf .venv build dist demo runs site
