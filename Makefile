# Two lines for a new user: `make reproduce` and `make test`. Everything happens in .venv, made on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help reproduce test publish book lint clean

help:
	@echo "make reproduce  train on the drawn set, evaluate, build your own book, compare with the published numbers"
	@echo "make test       the tests, ten minutes at most (slow ones: $(BIN)/pytest -m slow)"
	@echo "make book       the book with the published numbers, in _build/html"
	@echo "make publish    copy finished records and executed notebooks from runs/ to data/results and book/runs"
	@echo "make lint       ruff: rules and format"
	@echo "make clean      remove _build and caches; runs/ and $(VENV) stay"

reproduce: $(VENV)/installed
	$(BIN)/python -m wsss.reproduce

test: $(VENV)/installed-test
	$(BIN)/python -m pytest -m "not slow" -n 2

publish: $(VENV)/installed
	$(BIN)/python -m wsss.publish
	$(BIN)/python -m wsss.tools.readme

book: $(VENV)/installed
	$(BIN)/jupyter-book build book

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf _build .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path "./$(VENV)/*" -prune -exec rm -rf {} +

# An installation that was interrupted leaves no mark behind and is taken up again.
$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' \
	  || { echo "wsss needs Python 3.11 or 3.12: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -e .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/python -m pip install -e ".[test]"
	touch $@
