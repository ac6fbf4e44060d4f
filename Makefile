# `make quickstart`, `make test` and `make docs` work on a fresh clone: each makes .venv, installs,
# and runs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.docs-installed

.PHONY: quickstart test test-all lint docs results wheel clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

quickstart: $(STAMP)
	$(BIN)/torchproof quickstart --out quickstart --overwrite

# Compiled once, for the workers and the processes that tests start. `make test` leaves out what is
# marked slow (a hundred functions that take a quarter of the time), `make test-all` nothing.
test: KIND := -m "not slow"
test test-all: $(STAMP)
	$(BIN)/python -m compileall -q src
	$(BIN)/python -m pytest -n auto --maxprocesses 8 $(KIND)

lint: $(STAMP)
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/mypy

$(DOCS_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $(DOCS_STAMP)

# site/index.html opens in a browser from disk, without a server.
docs: $(DOCS_STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo site/index.html

wheel: $(STAMP)
	rm -rf build
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	@ls dist

# The pages that are made of stored experiments; `torchproof reproduce NAME` renews one of these.
results: $(STAMP)
	$(BIN)/python -m torchproof.reproduce.pages docs

clean:
	rm -rf $(VENV) quickstart site build dist src/*.egg-info
