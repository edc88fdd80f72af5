# SPDX-License-Identifier: Apache-2.0
VENV := .venv
BIN := $(VENV)/bin
# Debian's, where there is one: built with profile-guided optimization, it takes an eighth less time than without.
PYTHON ?= $(firstword $(wildcard /usr/bin/python3) python3)

.PHONY: help packages venv demo check bench format clean

help:
	@echo 'make demo    create an update, watch a stock kernel in QEMU take it and give it back'
	@echo 'make check   formatting, lint, types, all tests'
	@echo 'make bench   measure samples (benchmarks/README.md)'
	@echo 'make venv    kdiff and its development tools in $(VENV)'
	@echo 'make format  let ruff format and repair the sources'
	@echo 'make clean   remove what make and the tools left behind'

packages:
	@.ci/install-packages

venv: packages
	@$(MAKE) --no-print-directory $(VENV)/installed

$(VENV)/installed: pyproject.toml
	@echo 'installing kdiff and its tools into $(VENV)'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: venv
	@$(BIN)/python examples/demo.py

check: venv
	@.ci/install-packages check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest

bench: venv
	@$(BIN)/python benchmarks/bench_coverage.py --sample 60
	@$(BIN)/python benchmarks/bench_strictness.py --mutations 5000 --functions 200
	@$(BIN)/python benchmarks/bench_pairs.py --build --where '^6.1/x86$$'
	@$(BIN)/python benchmarks/bench_objects.py --runs 1
	@$(BIN)/python benchmarks/bench_stages.py
	@echo 'not run, as they build for long or want files or a guest (benchmarks/README.md):'
	@cd benchmarks; ls bench_*.py | grep -vE 'coverage|strictness|pairs|objects|stages'

format: venv
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) demo build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find kdiff plugins tests examples -name __pycache__ -type d -prune -exec rm -rf {} +
