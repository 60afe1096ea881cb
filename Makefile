# Every command of the README is one of these or `python -m jax_irkd.…`.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
VERSION = $(shell $(BIN)/python -c 'import sys; print("py%d%d" % sys.version_info[:2])')
LOCK = $(wildcard requirements/$(VERSION).txt)
SOURCES := jax_irkd configs tfds_builders tests benchmarks
DEMO := runs/demo
DATA := runs/demo_data
PAIRS := ntu_rgbd_ir/ten
TRAIN := $(BIN)/python -m jax_irkd.main --workdir=$(DEMO) --config=configs/demo.py

.PHONY: setup demo test lint format chaos bench clean

setup: $(VENV)/.core
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
$(VENV)/.core: pyproject.toml $(wildcard requirements/*.txt) | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable . $(addprefix --constraint ,$(LOCK))
	touch $@
$(VENV)/.test: $(VENV)/.core
	$(BIN)/python -m pip install --quiet --editable '.[test,tfds-cli]' $(addprefix --constraint ,$(LOCK))
	touch $@

demo: setup
	$(BIN)/python -m jax_irkd.data.synthetic --out=$(DATA)/raw
	$(BIN)/python -m jax_irkd.build $(PAIRS) --manual_dir=$(DATA)/raw --data_dir=$(DATA)/tfds
	$(TRAIN):method=baseline
	$(TRAIN):method=ours

test: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 --dist=worksteal

lint: $(VENV)/.test
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

format: $(VENV)/.test
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

chaos: $(VENV)/.test
	CHAOS=1 $(BIN)/python -m pytest tests/training/test_chaos.py tests/training/test_full_disk.py --timeout=3600 -v

# Everything of docs/performance.md, in a quarter of an hour; make bench ARGS=--quick in two minutes.
bench: setup
	$(BIN)/python -m benchmarks $(ARGS)

clean:
	rm -rf runs/demo runs/demo_data
