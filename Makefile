# Two lines for a new user: `make reproduce` and `make test`. Everything happens in .venv, made on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BOOK := _build/book-environment/bin
STRICT := $(BOOK)/jupyter-book build book -W -n --keep-going
# Two processes. Each runs whole files in turn, so that what the tests of a file share is made only once.
PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal

.PHONY: help reproduce test slow check gpu smoke publish book strict pdf lint clean

help:
	@echo "make reproduce  train on the drawn set, evaluate, build your own book, compare with the published numbers"
	@echo "make test       the tests, ten minutes at most"
	@echo "make slow       the slow tests"
	@echo "make check      both"
	@echo "make gpu        what a GPU must show before days are spent on it; says so where there is none"
	@echo "make smoke      the notebooks by the preset smoke, through papermill, in runs/smoke"
	@echo "make book       the book with the published numbers, in _build/html"
	@echo "make strict     the same from nothing, every warning an error, in an environment without torch"
	@echo "make pdf        the book as one PDF, in _build/html/wsss.pdf; needs Chromium"
	@echo "make publish    copy finished records and executed notebooks from runs/ to data/results and book/runs"
	@echo "make lint       ruff: rules and format"
	@echo "make clean      remove _build and caches; runs/ and $(VENV) stay"

reproduce: $(VENV)/installed
	$(BIN)/python -m wsss.tools.reproduce

test: $(VENV)/installed-test
	$(PYTEST) -m "not slow"

slow: $(VENV)/installed-test
	$(PYTEST) -m slow

check: $(VENV)/installed-test
	$(PYTEST)

gpu: $(VENV)/installed
	$(BIN)/python -m wsss.tools.gpu

smoke: $(VENV)/installed
	rm -rf runs/smoke
	mkdir -p runs/smoke
	for name in train_voc cam_figures results modules explore; do \
	  $(BIN)/papermill notebooks/$$name.ipynb runs/smoke/$$name.ipynb \
	    -p preset smoke -p output runs/smoke --no-progress-bar || exit 1; \
	done

publish: $(VENV)/installed
	$(BIN)/wsss publish
	$(BIN)/python -m wsss.tools.readme

book: $(VENV)/installed
	$(BIN)/jupyter-book build book

strict: $(BOOK)/installed
	rm -rf _build/html _build/.doctrees
	$(STRICT)
	test -f _build/html/index.html  # jupyter-book 2 builds nothing and exits 0

# The site is built after the PDF, so that its landing page links to it.
pdf: $(BOOK)/installed
	$(BOOK)/jupyter-book build book -n --keep-going --builder singlehtml --path-output _build/pdf
	$(BOOK)/python -m wsss.tools.pdf
	$(STRICT)

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf _build .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path "./$(VENV)/*" -prune -exec rm -rf {} +

# --no-compile: Python compiles what it imports, at that time; pip would compile every file of every library.
define install
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' \
	  || { echo "wsss needs Python 3.11 or 3.12: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --no-compile -e "$(1)"
endef

# An interrupted installation leaves no mark, so that make runs it again. The tests' installation includes the other.
$(VENV)/installed: pyproject.toml
	$(call install,.)
	touch $@

$(VENV)/installed-test: pyproject.toml
	$(call install,.[test])
	touch $(VENV)/installed $@

# Only what the book needs. pip knows dependency groups since 25.1.
$(BOOK)/installed: pyproject.toml
	$(PYTHON) -m venv --clear $(dir $(BOOK))
	$(BOOK)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BOOK)/python -m pip install --quiet --no-compile --group book
	@! $(BOOK)/python -c 'import torch' 2>/dev/null || { echo "the group book brings torch along" >&2; exit 1; }
	touch $@
