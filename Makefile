# The commands of DNN Workbench. `make` alone lists them.
#
# Everything lives in .venv. Files named .venv/.lab, .venv/.test, .venv/.site and .venv/.dev say what
# is installed there: they are renewed only when pyproject.toml or constraints.txt is newer, so
# that an installed bench starts at once, and without a network.

PORT ?= 8888
BROWSER ?= yes
ARGS ?=
PYTHON ?= python3 python3.14 python3.13 python3.12 python3.11 python

VENV := .venv
BIN := $(VENV)/bin
NEEDS := $(VENV)/.made pyproject.toml constraints.txt
INSTALL = $(BIN)/python -m pip install --constraint constraints.txt --editable
# JupyterLab's question about news would stand in the way of every first lesson.
NO_NEWS = $(BIN)/jupyter labextension disable "@jupyterlab/apputils-extension:announcements"

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help lab test lint notebooks claims student gallery site constraints clean

help:  ## list the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

lab: $(VENV)/.lab  ## open JupyterLab on the first notebook (PORT=8888, BROWSER=no)
	@$(BIN)/workbench lab --port "$(PORT)" $(if $(filter no,$(BROWSER)),--no-browser)

test: $(VENV)/.test  ## run the tests (ARGS="-k models" to choose)
	$(BIN)/python -m pytest -n 3 --dist loadgroup $(ARGS)

lint: $(VENV)/.dev  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

notebooks: $(VENV)/.lab  ## run every notebook into a report in dist/reports
	@failed=; for notebook in notebooks/*.ipynb; do \
		name=$$(basename "$$notebook" .ipynb); \
		$(BIN)/workbench report "$$notebook" --output "dist/reports/$$name" \
			|| failed="$$failed $$name"; \
	done; \
	if [ -n "$$failed" ]; then echo "error: failed:$$failed" >&2; exit 1; fi

claims: $(VENV)/.lab  ## run the papers' claims with several seeds into the atlas (ARGS=NOTEBOOK)
	$(BIN)/workbench claims $(ARGS)

student: $(VENV)/.lab  ## copies for students, nbgrader and teachers in dist (ARGS=--verify)
	$(BIN)/workbench student $(ARGS)

gallery: $(VENV)/.lab  ## run every notebook into a web site in dist/gallery
	$(BIN)/workbench gallery $(ARGS)

site: $(VENV)/.site  ## what a team publishes, in dist/site: gallery, atlas, API reference, search
	$(BIN)/workbench site $(ARGS)

constraints: $(VENV)/.made  ## pin every package anew: the newest that work together
	rm -rf .work/pins
	$(BIN)/python -m venv .work/pins
	.work/pins/bin/python -m pip install --quiet torch==2.13.0 --editable ".[test,dev]"
	{ echo '# Every package of `make lab`, `make test` and `make lint`. Made by: make constraints'; \
	  .work/pins/bin/python -m pip freeze --all --exclude pip --exclude dnn-workbench \
	  | sed 's/+cpu$$//'; } > .work/pins/constraints.txt
	mv .work/pins/constraints.txt constraints.txt
	rm -rf .work/pins

clean:  ## remove what was built (for a fresh start, remove .venv too)
	rm -rf build dist .work *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find workbench widgets notebooks tests \
		\( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

$(VENV)/.made:
	@for python in $(PYTHON); do \
		if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			echo "making $(VENV) with $$($$python --version)"; \
			$$python -m venv $(VENV) && touch $@ && exit 0; \
			echo "error: $$python -m venv failed; on Debian and Ubuntu: apt install python3-venv" >&2; \
			exit 1; \
		fi; \
	done; \
	echo "error: Python 3.11 or newer is needed; found: $$(python3 --version 2>&1)." >&2; \
	echo "Install one, or name it: make lab PYTHON=/path/to/python3" >&2; \
	exit 1

$(VENV)/.lab: $(NEEDS)
	@echo "installing the bench into $(VENV) (once; about a minute)"
	@$(INSTALL) . || { echo "error: the installation failed: see above; it needs the network" >&2; exit 1; }
	@$(NO_NEWS)
	@touch $@

$(VENV)/.test: $(NEEDS)
	@echo "installing the bench and its tests into $(VENV) (once; about a minute)"
	@$(INSTALL) ".[test]" || { echo "error: the installation failed: see above; it needs the network" >&2; exit 1; }
	@$(NO_NEWS)
	@touch $(VENV)/.lab $@

$(VENV)/.site: $(NEEDS)
	@echo "installing the bench and its reference's generator into $(VENV) (once; about a minute)"
	@$(INSTALL) ".[site]" || { echo "error: the installation failed: see above; it needs the network" >&2; exit 1; }
	@$(NO_NEWS)
	@touch $(VENV)/.lab $@

$(VENV)/.dev: $(NEEDS)
	@echo "installing the bench and its linters into $(VENV) (once; about a minute)"
	@$(INSTALL) ".[dev]" || { echo "error: the installation failed: see above; it needs the network" >&2; exit 1; }
	@$(NO_NEWS)
	@touch $(VENV)/.lab $@
