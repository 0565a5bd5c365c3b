# 'make' alone lists the words. PYTHON=python3.12 chooses the interpreter that .venv is made with.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What pytest is told besides; 'make test TESTS=tests/spec ARGS=-x' runs a part of the suite.
TESTS ?= tests
ARGS ?=
# 'make bench NANOGPT=path' measures a clone of nanoGPT beside Treadle.
NANOGPT ?=
INSTALL := PIP_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install -qq

.DEFAULT_GOAL := help
.PHONY: help demo serve test lint bench docs clean
.DELETE_ON_ERROR:

help:  ## List these words
	@grep -hE '^[a-z]+:.*## ' Makefile | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

$(VENV)/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Treadle needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1)."; \
	  echo "  cure: install a newer one and name it, as in: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@echo "making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); \
	  echo "  cure: $(PYTHON) lacks venv or pip; on Debian and Ubuntu: apt-get install python3-venv"; exit 2; }
	@touch $@

# Two stamps, so that the demo does not wait for the tools of the tests.
$(VENV)/run: $(VENV)/made pyproject.toml constraints.txt
	@echo "installing Treadle into $(VENV) (about 1 GB, a few minutes)"
	@$(INSTALL) -e .
	@touch $@

$(VENV)/dev: $(VENV)/made pyproject.toml constraints.txt
	@echo "installing Treadle and the tools of its tests into $(VENV) (about 1.5 GB, a few minutes)"
	@$(INSTALL) -e '.[dev]'
	@touch $@ $(VENV)/run

demo/treadle.yaml: | $(VENV)/run
	@$(BIN)/treadle init pycode demo

demo: $(VENV)/run demo/treadle.yaml  ## Make, plan and run the project of recipe pycode in ./demo: your own model in minutes
	@cd demo && ../$(BIN)/treadle plan
	@cd demo && ../$(BIN)/treadle run
	@echo
	@echo "Serve it, with a page that collects feedback:  make serve"

serve: $(VENV)/run demo/treadle.yaml  ## Serve the demo's model: the page and the API on this machine
	@cd demo && ../$(BIN)/treadle serve

test: $(VENV)/dev  ## Run the whole suite; TESTS=path and ARGS=... for a part
	@scripts/test-dependencies
	@$(BIN)/python -m pytest $(TESTS) -q -n auto --dist loadgroup --durations=15 $(ARGS)

lint: $(VENV)/dev  ## Check style and types
	@$(BIN)/ruff check src tests benchmarks scripts
	@$(BIN)/mypy

bench: $(VENV)/dev  ## Measure training and generation side by side with peers
	@$(BIN)/python benchmarks/train_lm.py $(if $(NANOGPT),--nanogpt $(NANOGPT))
	@$(BIN)/python benchmarks/generate.py

docs: $(VENV)/run  ## Write the generated pages under docs/ anew
	@$(BIN)/python scripts/docs

clean:  ## Remove .venv, ./demo and every cache
	rm -rf $(VENV) demo .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
