# Every target does its own set-up: .venv, from requirements.lock. Nothing happens when nothing changed.
#   PYTHON=python3.12   which Python to use        CHAPTERS="00 03"   which chapters
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help setup book test quick notebooks records lab serve lock bench clean distclean

PYTHON ?=
CHAPTERS ?=
ONLY ?=
RECORD ?=
PORT ?= 8000
BIN := .venv/bin

help: ## this list
	@echo "Making Data: two commands, each sets up what it needs"
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1|\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{ printf "%-18s %s\n", $$1, $$2 }'

book: setup ## build the book and print where to open it
	@$(BIN)/python tools/tasks.py book

test: setup ## check everything (CHAPTERS="00": only these notebooks)
	@$(BIN)/python tools/tasks.py test $(CHAPTERS)

quick: setup ## lint, unit tests and doctests: the daily loop
	@$(BIN)/python tools/tasks.py quick

notebooks: setup ## run the chapters, store and stamp them (CHAPTERS="00")
	@OMP_NUM_THREADS=1 $(BIN)/python tools/notebooks.py run $(CHAPTERS)

records: setup ## run the full profile, store what it finds (CHAPTERS="00", FORCE=1: what is current too)
	@$(BIN)/python tools/notebooks.py records $(CHAPTERS) $(if $(FORCE),--force)

lab: setup ## open the chapters in JupyterLab
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/jupyter lab notebooks

serve: ## serve the built book on this machine (PORT=8000)
	@[ -f _build/html/index.html ] || { echo "There is no book yet: run make book first."; exit 1; }
	@echo "http://127.0.0.1:$(PORT)/   (Ctrl-C ends it)"
	@$(BIN)/python -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

lock: setup ## renew requirements.lock after a change in pyproject.toml (UPGRADE=1: newest of all)
	@$(BIN)/uv pip compile --universal --generate-hashes --python-version 3.11 --all-extras pyproject.toml \
	  -o requirements.lock --no-emit-find-links --no-emit-index-url --quiet $(if $(UPGRADE),--upgrade)
	@echo "requirements.lock is renewed; make test sets up anew and checks it."

bench: setup ## measure speed and memory (ONLY="train images": some of it; RECORD=1: keep it for the book)
	@$(BIN)/python tools/tasks.py bench $(ONLY) $(if $(RECORD),--record)

setup: ## only the set-up
	@boot=; for python in $(PYTHON) $(BIN)/python python3 python3.13 python3.12 python3.11 python; do \
	  if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 6))' >/dev/null 2>&1; then boot=$$python; break; fi; \
	done; \
	if [ -z "$$boot" ]; then echo "No Python 3 starts on this machine. Install Python 3.11, 3.12 or 3.13 (python.org), then run the same command again."; exit 1; fi; \
	PYTHON="$(PYTHON)" "$$boot" tools/setup.py

clean: ## remove what was built (.venv stays)
	@rm -rf _build build book/_generated .pytest_cache .ruff_cache .hypothesis *.egg-info
	@find . -path ./.venv -prune -o -type d \( -name __pycache__ -o -name .ipynb_checkpoints \) -exec rm -rf {} +

distclean: clean ## remove .venv as well
	@rm -rf .venv
