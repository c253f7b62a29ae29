# Two commands: `make demo` and `make test`. Each sets up what it needs; nothing else has to be installed by hand.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# For people with an index of their own for torch (CPU-only builds, say): make demo TORCH_INDEX=https://...
TORCH_INDEX ?=
PIP_FLAGS := --disable-pip-version-check --constraint constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
# One process per core, each with one thread (tests/conftest.py); a file stays in one process. In their own order the files
# of the app, which take longest, come first and leave no core idle at the end.
PYTEST := $(BIN)/python -m pytest --numprocesses=auto --dist=loadfile --no-loadscope-reorder
CHROMIUM_PACKAGES := chromium fonts-dejavu-core

.PHONY: demo test fast slow lint check app chromium clean
.DEFAULT_GOAL := demo

demo: $(VENV)/.stamp-app  ## Explain an unknown checkpoint on real photographs and write one HTML report.
	@$(BIN)/python -m workbench.demo demo

test: fast slow  ## All tests.

fast: $(VENV)/.stamp-test chromium  ## Fast suite, under five minutes on two cores.
	$(PYTEST) -m "not slow"

slow: $(VENV)/.stamp-test chromium  ## Science tests and the sweep over all torchvision classifiers.
	$(PYTEST) -m slow

lint: $(VENV)/.stamp-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint fast  ## Lint, types, fast tests.

app: $(VENV)/.stamp-app  ## Serve the app on 127.0.0.1 and print the URL.
	@$(BIN)/workbench serve

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; found $$($(PYTHON) --version 2>&1). Install it, or run: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Creating $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.stamp-app: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing the workbench and its packages (torch is large: one to several minutes) ..."
	@$(BIN)/python -m pip install $(PIP_FLAGS) --progress-bar on -e .
	@touch $@

$(VENV)/.stamp-test: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing the workbench with its test packages (torch is large: one to several minutes) ..."
	@$(BIN)/python -m pip install $(PIP_FLAGS) --progress-bar on -e '.[test]'
	@touch $@ $(VENV)/.stamp-app

# Browser tests drive Debian's Chromium. Without it they are skipped with the reason, and fail under CI=true.
chromium:
	@command -v chromium >/dev/null 2>&1 || command -v chromium-browser >/dev/null 2>&1 || command -v google-chrome >/dev/null 2>&1 || \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
	  echo "Installing Chromium for the browser tests ..."; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(CHROMIUM_PACKAGES) >/dev/null; \
	else \
	  echo "No Chromium: browser tests will be skipped. To run them: sudo apt-get install $(CHROMIUM_PACKAGES)"; \
	fi

clean:
	rm -rf $(VENV) build dist demo .pytest_cache .mypy_cache .ruff_cache
