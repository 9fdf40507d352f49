# Every target makes the virtual environment first if there is none.
VENV ?= .venv
TORCH ?= torch==2.13.0
PYTHON := $(VENV)/bin/python
FEDERATED ?= .venv-federated
# The CPU build of torch; PIP_FIND_LINKS, where it is set, is taken to hold it.
ifndef PIP_FIND_LINKS
export PIP_EXTRA_INDEX_URL ?= https://download.pytorch.org/whl/cpu
endif
# One thread a process: the tests run in two processes.
PYTEST := OMP_NUM_THREADS=1 $(PYTHON) -m pytest

.PHONY: demo test test-slow test-federated lint conformance docs benchmark clean

demo: $(VENV)/installed  ## train on a generated shop log, compare, save, load, recommend
	HF_HUB_OFFLINE=1 $(VENV)/bin/hf-rec demo

test: $(VENV)/installed-dev  ## the test suite, in two processes
	$(PYTEST) -m "not slow" -n 2 --dist worksteal

test-slow: $(VENV)/installed-dev  ## the tests that take minutes: the wheel, two processes, real data
	$(PYTEST) -m slow

test-federated: $(FEDERATED)/installed  ## the tests that need Flower, in an environment of its own
	OMP_NUM_THREADS=1 $(FEDERATED)/bin/python -m pytest tests/federated hf_rec/federated

lint: $(VENV)/installed-dev  ## style and formatting
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check hf_rec scripts tests docs

conformance: $(VENV)/installed-dev  ## the model tests of the installed Transformers
	$(PYTHON) scripts/conformance.py

docs: $(VENV)/installed-docs  ## the documentation, in site/, and the quickstart notebook run from top to bottom
	$(PYTHON) -m mkdocs build --strict
	$(PYTHON) docs/run_notebook.py docs/quickstart.ipynb

benchmark: $(VENV)/installed-dev  ## the data path, measured on generated rows
	$(PYTHON) scripts/benchmark_data.py

clean:
	rm -rf $(VENV) $(FEDERATED) runs demo site

$(VENV)/installed: pyproject.toml
	test -x $(PYTHON) || python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet $(TORCH)
	$(PYTHON) -m pip install --quiet -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PYTHON) -m pip install --quiet -e ".[dev]"
	touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(PYTHON) -m pip install --quiet -e ".[docs,plots]"
	touch $@

$(FEDERATED)/installed: pyproject.toml
	test -x $(FEDERATED)/bin/python || python3 -m venv $(FEDERATED)
	$(FEDERATED)/bin/python -m pip install --quiet $(TORCH)
	$(FEDERATED)/bin/python -m pip install --quiet -e ".[federated,plots]" hypothesis opacus pytest
	touch $@
