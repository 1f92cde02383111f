# Thin: each target sets up what it needs and calls one command. `make` alone shows them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.PHONY: help setup demo test check bench pictures clean

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

help: ## show this
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

setup: $(READY) ## Debian packages (root) and the virtual environment, both only when something is missing

$(READY): pyproject.toml xenfs/debian-packages.txt
	@bash .ci/debian-packages
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: $(READY) ## the main job, shown in a terminal
	$(BIN)/xenfs demo

test: $(READY) ## every test, a file at a time on each processor
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

check: $(READY) ## ruff, mypy --strict, import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/unit/test_layers.py

bench: $(READY) ## figures, as ratios within one run
	$(BIN)/python -m tests.bench

pictures: $(READY) ## the README's pictures of the monitor
	$(BIN)/python -m xentop.picture .pictures

clean: ## remove the virtual environment and everything made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
