# Two commands matter: `make book` and `make test`. Both make the environment first.
# uv is used when it is there, pip otherwise.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
EXTRAS := book,dev,llm,peers
STAMP  := $(VENV)/.installed
UV     := $(shell command -v uv 2>/dev/null)
PROFILE ?= quick

# images of containers often set it, and every process then compiles every module anew: ten seconds
unexport PYTHONDONTWRITEBYTECODE

# the progress of an installation goes through a filter, which must not hide a failure
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c

# pip's own account of a first installation is a thousand lines, and its quiet one is none
PROGRESS = awk ' \
  /^Collecting / { if (++seen % 50 == 0) say("looked up " seen " packages") } \
  /^ *(Downloading|Using cached) / && !/\.metadata/ { \
    sub(/^ */, ""); sub(/https?:[^ ]*\//, ""); say(++got ". " $$0) } \
  /^Installing collected packages/ { say("installing " gsub(/,/, ",") + 1 " packages: a minute or two") } \
  /^Successfully installed/ { say("installed") } \
  function say(words) { print "  " words; fflush() }'

.DEFAULT_GOAL := help
.PHONY: help install verify book test test-site test-lab test-colab test-slow mutate serve lint format bench lock clean study

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(STAMP)  ## make .venv and install everything

$(STAMP): pyproject.toml constraints.txt
	@echo "Installing this project and its tools into $(VENV): on Linux about 5.5 GB the first time,"
	@echo "most of it torch's; some minutes. Nothing outside this folder is changed."
ifneq ($(UV),)
	@test -x $(BIN)/python || uv venv --quiet --python $(PYTHON) $(VENV)
	@uv pip install --python $(BIN)/python -c constraints.txt -e '.[$(EXTRAS)]'
else
	@test -x $(BIN)/python || { echo "  making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@$(BIN)/python -m pip install --progress-bar off --disable-pip-version-check \
	  -c constraints.txt -e '.[$(EXTRAS)]' | $(PROGRESS)
endif
	@touch $@

verify: $(STAMP)  ## re-run a sample of every study that today's code has not been held against
	$(BIN)/survey verify --changed --seconds 300
	$(BIN)/survey check --studies

book: $(STAMP)  ## execute the chapters, build and check the site, print its path
	$(BIN)/survey build --profile $(PROFILE)

test: $(STAMP)  ## library, oracles, runner, one chapter through the whole line
	@echo "Testing on two cores: about 12 minutes. Each dot is a test that passed."
	$(BIN)/python -m pytest -q -n 2 --durations 12 --dist loadfile --no-loadscope-reorder \
	  -m "not slow and not site and not colab"

test-site: $(STAMP)  ## browser tests of the built site (after make book; needs chromium)
	@echo "Testing the built site in a browser: about 10 minutes."
	$(BIN)/python -m pytest -q -n 2 -m site tests/site

test-lab: $(STAMP)  ## every chapter in a real JupyterLab, slider and all (needs chromium)
	$(BIN)/python -m pytest -q -n 2 -m site tests/lab

test-colab: $(STAMP)  ## every chapter with the versions Colab has, from this tree's wheel
	$(BIN)/python -m pytest -q -s -m colab tests/colab

test-slow: $(STAMP)  ## faults and other minutes-long checks
	$(BIN)/python -m pytest -q -m slow

mutate: $(STAMP)  ## put one-line faults into mechanics and methods: how many do tests notice? (hours)
	$(BIN)/python -m tests.mutation

serve: $(STAMP)  ## show the built site on this machine
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory _build/html 8000

lint: $(STAMP)  ## ruff, pyright, import-linter, codespell, notebooks stripped
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/nbstripout --keep-id --verify notebooks/*.ipynb
	$(BIN)/survey check --sources

format: $(STAMP)  ## let ruff put things right
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)  ## timings of all rows, as JSON lines in benchmarks/ (minutes; leave the machine alone)
	OMP_NUM_THREADS=1 $(BIN)/python -W ignore -m benchmarks

study: $(STAMP)  ## run the recorded studies anew (up to 20 minutes a chapter)
	$(BIN)/survey run --profile study

lock:  ## resolve constraints.txt anew (needs uv)
	@test -n "$(UV)" || { echo "make lock needs uv: pip install uv"; exit 1; }
	uv pip compile --universal --fork-strategy fewest --python-version 3.11 --all-extras \
	  --no-emit-index-url --no-header --no-annotate --upgrade --quiet pyproject.toml -o constraints.txt

clean:  ## remove everything that is made, the environment too
	rm -rf _build $(VENV) .pytest_cache .ruff_cache
