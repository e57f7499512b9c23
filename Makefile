# Everything runs from .venv in this folder; pip's own settings (index, proxy, cache) apply as they are.
VENV ?= .venv
PYTHON ?=
ARGS ?=
BIN := $(VENV)/bin
STAMP := $(VENV)/.detkd-installed

.DEFAULT_GOAL := help
.PHONY: help install demo test test-unit check format clean

help:
	@echo "make install    create $(VENV) if it is missing and install detkd with everything it needs"
	@echo "make demo       install, then distil a small model on a drawn set and show mAP before and after"
	@echo "make test       install, then run the whole test suite        (ARGS='-k boxes' picks tests)"
	@echo "make test-unit  install, then run the tests that train nothing"
	@echo "make check      install, then ruff, format check and mypy"
	@echo "make format     sort imports and format the code"
	@echo "make clean      remove caches and build folders; $(VENV), runs/ and data/ stay"
	@echo "PYTHON=/path/to/python3.12 make install   picks the Python that $(VENV) is made with"

install: $(STAMP)
	@echo "detkd is installed in $(VENV)"

demo: $(STAMP)
	$(BIN)/python -m detkd demo $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest $(ARGS)

test-unit: $(STAMP)
	$(BIN)/python -m pytest -m "not slow and not gpu" $(ARGS)

check: $(STAMP)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

format: $(STAMP)
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path "./$(VENV)/*" -prune -exec rm -rf {} +

# A Python is good when it is 3.11 or newer and can make a virtual environment (Debian packs `venv` apart).
# An interrupted install leaves no stamp, so the next call finishes it.
$(STAMP): pyproject.toml
	@set -e; \
	if [ ! -x "$(BIN)/python" ]; then \
	  chosen=; no_venv=; \
	  for candidate in $(or $(PYTHON),python3.11 python3.12 python3.13 python3); do \
	    command -v "$$candidate" >/dev/null 2>&1 || continue; \
	    version=$$("$$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2]); sys.exit(sys.version_info < (3, 11))' 2>/dev/null) || continue; \
	    if "$$candidate" -c 'import ensurepip, venv' 2>/dev/null; then chosen=$$candidate; break; fi; \
	    no_venv=$${no_venv:-$$version}; \
	  done; \
	  if [ -z "$$chosen" ] && [ -n "$$no_venv" ]; then \
	    echo "error: Python $$no_venv has no venv module; install it with: sudo apt-get install -y python$$no_venv-venv" >&2; exit 1; \
	  elif [ -z "$$chosen" ]; then \
	    echo "error: $(if $(PYTHON),PYTHON=$(PYTHON) is no usable Python 3.11 or newer,no Python 3.11 or newer found); install one with: sudo apt-get install -y python3 python3-venv (or set PYTHON=/path/to/python3.11)" >&2; exit 1; \
	  fi; \
	  echo "creating $(VENV) with $$("$$chosen" --version)"; \
	  "$$chosen" -m venv "$(VENV)"; \
	fi; \
	if ! "$(BIN)/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
	  echo "error: $(VENV) has $$("$(BIN)/python" --version 2>&1), 3.11 or newer is needed; remove $(VENV) and try again" >&2; exit 1; \
	fi; \
	"$(BIN)/python" -m pip --version >/dev/null 2>&1 || "$(BIN)/python" -m ensurepip >/dev/null
	@echo "installing detkd and what it needs (PyTorch is large: a few GB the first time)"
	@$(BIN)/python -m pip install --disable-pip-version-check -e ".[dev]"
# -P keeps detkd/ itself off the import path, where its types.py would hide Python's own.
	@$(BIN)/python -P detkd/system_check.py
	@touch $@
