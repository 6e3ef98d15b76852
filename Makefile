# The one way in: people, continuous integration and pre-commit call these targets.
PYTHON ?= python3
ENV := .venv
TEST_ENV := .venv-test
SUITE := trixie

.PHONY: demo test test-gimp check lint format clean

demo: $(ENV)/.installed  ## install denoiser and clean the sample picture
	$(ENV)/bin/python scripts/demo.py

test: $(TEST_ENV)/.installed  ## run the whole test suite in its own environment
	$(TEST_ENV)/bin/pytest -m "not gimp"

test-gimp: $(TEST_ENV)/.installed  ## test the plug-in in real GIMP (root, Debian; SUITE=forky: GIMP 3.2)
	root=$$(tests/gimp/chroot.sh $(SUITE)) && DENOISER_GIMP_ROOT=$$root $(TEST_ENV)/bin/pytest -m gimp tests/test_gimp.py

check: lint  ## what a commit has to pass: linter, types, fast tests
	$(TEST_ENV)/bin/pytest -q -m "not slow and not gpu and not gimp"

lint: $(TEST_ENV)/.installed
	$(TEST_ENV)/bin/ruff check .
	$(TEST_ENV)/bin/ruff format --check .
	$(TEST_ENV)/bin/mypy

format: $(TEST_ENV)/.installed
	$(TEST_ENV)/bin/ruff check --fix .
	$(TEST_ENV)/bin/ruff format .

clean:
	rm -rf $(ENV) $(TEST_ENV) build dist demo

$(ENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(ENV)
	$(ENV)/bin/pip install --quiet --editable .
	touch $@

$(TEST_ENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(TEST_ENV)
	$(TEST_ENV)/bin/pip install --quiet --editable ".[dev]"
	touch $@
