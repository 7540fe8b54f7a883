# Every target sets up what it needs, once: a repeat is instant, and a change of pyproject.toml or constraints.txt
# installs again.  Variables:
#   PYTHON       the interpreter that makes .venv (default python3; 3.10 or later)
#   TORCH_INDEX  where to take PyTorch from, if not PyPI: on Linux without an NVIDIA GPU,
#                `make quickstart TORCH_INDEX=https://download.pytorch.org/whl/cpu` saves a download of gigabytes

PYTHON ?= python3
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check install --no-compile -c constraints.txt
PINS := pyproject.toml constraints.txt
# The packages whose signatures carry array shapes.
SHAPED := linformers.attention,linformers.models,linformers.convert,linformers.data,linformers.training,linformers.classification,linformers.analysis,linformers.scoring,linformers.extraction
PYTEST := $(BIN)/python -m pytest
# One worker for each processor, each with one thread; files in their order, so that the long ones are not left to the end.
PARALLEL := OMP_NUM_THREADS=1 $(PYTEST) -n logical --dist loadfile --no-loadscope-reorder --durations 10

# Bytecode is made at the first import of what is used, not at installation of everything: half the time. Where the
# environment forbids writing it, every start of Python would compile torch and transformers anew, about 10 s.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup quickstart test bench gpu weights lint format type schema docs dist clean
.DEFAULT_GOAL := help

help:
	@echo "make quickstart  linearise MiniLM, train a Linformer beside a Transformer, in minutes; writes runs/quickstart/"
	@echo "make setup       a development environment in $(VENV)"
	@echo "make test        the tests, those of arrays with every shape checked"
	@echo "make bench       speed of a converted encoder, beside the committed figures; minutes, on a quiet machine"
	@echo "make gpu         tests and times on one NVIDIA GPU, at most eight minutes; writes results/gpu-<card>.csv"
	@echo "make weights     a wheel of MiniLM adapted to long texts, in runs/weights/ (MODEL=folder: of one that is there)"
	@echo "make lint type   ruff and codespell; pyright"
	@echo "make format      let ruff rewrite the code"
	@echo "make schema      recipes/schema.json, by which editors complete recipes, from the recipe's classes"
	@echo "make docs        the documentation, into site/; broken links are errors"
	@echo "make dist        wheel and source distribution of a release in dist/, checked (TAG=v0.1.0: also against a tag)"
	@echo "make clean       remove the environment and the caches"

setup: $(VENV)/.dev

quickstart: $(VENV)/.core
	$(BIN)/linformers quickstart $(ARGS)

test: $(VENV)/.dev
	$(PARALLEL) -m "not slow and not alone and (not shaped or unhooked)" $(ARGS)
	$(PARALLEL) -m "not slow and shaped and not unhooked" --jaxtyping-packages=$(SHAPED),beartype.beartype $(ARGS)
	$(PYTEST) -m "not slow and alone" $(ARGS) || test $$? = 5  # 5: ARGS leave none

bench: $(VENV)/.core
	$(BIN)/python benchmarks/compare.py $(ARGS)

# The tests take their share of the eight minutes first; a failure of theirs does not stop the times.
gpu: $(VENV)/.dev
	timeout 170 $(PYTEST) tests/gpu -q -m gpu; tested=$$?; \
	    $(BIN)/python benchmarks/gpu_times.py $(ARGS) && exit $$tested

weights: $(VENV)/.dev
	$(BIN)/python release/weights_wheel.py $(if $(MODEL),--model "$(MODEL)") $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

type: $(VENV)/.dev
	$(BIN)/pyright --pythonpath $(BIN)/python

schema: $(VENV)/.core
	$(BIN)/python -c "import json; from linformers.training.recipe import recipe_schema; print(json.dumps(recipe_schema(), indent=1))" > recipes/schema.json

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "open site/index.html; to search, serve it: $(BIN)/mkdocs serve"

# twine in an environment of its own: nothing else needs it, nor what it brings.
dist: $(VENV)/.dev
	$(BIN)/python release/check_release.py $(TAG)
	rm -f dist/linformers-*.whl dist/linformers-*.tar.gz
	$(BIN)/python -m build --outdir dist .
	test -x build/twine/bin/twine || { $(PYTHON) -m venv --clear build/twine && build/twine/bin/python -m pip --quiet install twine; }
	build/twine/bin/twine check --strict dist/linformers-*.whl dist/linformers-*.tar.gz

clean:
	rm -rf $(VENV) build dist site .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# What users need, and the weights that the quickstart converts: torch first and alone, so that a CPU build already
# chosen is not replaced by a CUDA one.
$(VENV)/.core: $(PINS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	    { echo "error: $$($(PYTHON) --version 2>&1) is too old; use: make PYTHON=python3.11 (3.10 or later)" >&2; exit 1; }
	@echo "Installing into $(VENV) (once; a minute or two) ..."
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(PIP) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch
	@$(PIP) -e '.[weights]'
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	@echo "Installing the tools for development ..."
	@$(PIP) -e '.[dev,onnx]'
	@touch $@

$(VENV)/.docs: $(VENV)/.dev
	@echo "Installing what builds the documentation ..."
	@$(PIP) -e '.[docs]'
	@touch $@
