# Every target makes the virtual environment first if there is none.
VENV ?= .venv
TORCH ?= torch==2.13.0
PYTHON := $(VENV)/bin/python
# The CPU build of torch; PIP_FIND_LINKS, where it is set, is taken to hold it.
ifndef PIP_FIND_LINKS
export PIP_EXTRA_INDEX_URL ?= https://download.pytorch.org/whl/cpu
endif

.PHONY: demo test test-slow lint conformance benchmark clean

demo: $(VENV)/installed  ## train on a generated shop log, compare, save, load, recommend
	HF_HUB_OFFLINE=1 $(PYTHON) scripts/demo.py

test: $(VENV)/installed  ## the test suite
	$(PYTHON) -m pytest -m "not slow"

test-slow: $(VENV)/installed  ## the tests that take minutes
	$(PYTHON) -m pytest -m slow

lint: $(VENV)/installed  ## style and formatting
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check hf_rec scripts tests

conformance: $(VENV)/installed  ## the model tests of the installed Transformers
	$(PYTHON) scripts/conformance.py

benchmark: $(VENV)/installed  ## the data path, measured on generated rows
	$(PYTHON) scripts/benchmark_data.py

clean:
	rm -rf $(VENV) runs

$(VENV)/installed: pyproject.toml
	test -x $(PYTHON) || python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet $(TORCH)
	$(PYTHON) -m pip install --quiet -e ".[dev]"
	touch $@
