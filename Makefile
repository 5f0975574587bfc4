# make train | test | lint | bench | bench-gpu | learn | tiny: each makes the virtual environment where there is none.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: train test lint bench bench-gpu learn tiny

train: $(VENV)/installed
	$(BIN)/python mmupt.py $(ARGS)

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest -q --durations=10 $(ARGS)

lint: $(VENV)/installed-dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

bench: $(VENV)/installed-dev
	$(BIN)/python -m bench.speed $(ARGS)

# in a Python that has a CUDA build of torch, transformers, triton, pytest and trl: PYTHON=...
bench-gpu:
	$(PYTHON) -m pytest -q tests/test_logprob.py tests/test_decode_attention.py tests/test_packed_attention.py \
		tests/test_decode.py tests/test_sampling.py tests/test_model_utils.py
	$(PYTHON) -m bench.speed --device cuda --shape 3b --questions 10 --group_size 8 --max_new_tokens 512 $(ARGS)

learn: $(VENV)/installed-dev
	$(BIN)/python -m bench.learning $(ARGS)

tiny: $(VENV)/installed
	$(BIN)/python -m programs.build_tiny $(ARGS)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: requirements.txt | $(VENV)/bin/python
	$(BIN)/pip install -q -r requirements.txt
	touch $@

$(VENV)/installed-dev: requirements-dev.txt $(VENV)/installed
	$(BIN)/pip install -q -r requirements-dev.txt
	touch $@
