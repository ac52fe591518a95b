# make demo | test | test-all | lint | bench | verify. Each sets up what it needs in .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help setup demo test test-all lint bench verify clean

help:
	@echo "make demo    train a small model for about five minutes, write runs/demo/samples.png"
	@echo "make test    run the tests"
	@echo "make test-all    run them at full size: 24 kills, 11,000 fuzzed files, every command of every page"
	@echo "make lint    ruff and mypy"
	@echo "make bench   what the Trainer, the loader and the start-up cost; speed compared with diffusers and lucidrains (hours)"
	@echo "make verify  measure every shipped model's card again (minutes each)"

.venv/runs: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	@touch $@

.venv/checks: .venv/runs
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev,peers]'
	@touch $@

setup: .venv/runs

demo: setup
	$(BIN)/python cli.py demo

test: .venv/checks
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

test-all: .venv/checks
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal -m "" -o faulthandler_timeout=3600

lint: .venv/checks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/checks
	$(BIN)/python benchmarks/fit_overhead.py
	$(BIN)/python benchmarks/loader.py
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python -m benchmarks.diffusion all

verify: setup
	@set -e; for model in $$($(BIN)/python cli.py list --json | $(BIN)/python -c 'import json, sys; print(*(m["name"] for m in json.load(sys.stdin)))'); do \
		$(BIN)/python cli.py evaluate $$model; done

clean:
	rm -rf .venv
