# `make demo` and `make test` set everything up first. Needs Python 3.10 or newer with venv, and about 10 GB of disk.
PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= dev
# Processes that share the tests, file by file; each keeps to one core.
WORKERS ?= 2
BIN := $(VENV)/bin

# Idle threads of torch should sleep, not spin: the renderer has threads of its own.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: setup demo test lint clean

setup: $(VENV)/ready

$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[$(EXTRAS)]'
	$(BIN)/l2o check --fix
	touch $@

demo: setup
	$(BIN)/l2o demo $(DEMO)

test: setup
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder $(TESTS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) demo build dist *.egg-info
