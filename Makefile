# Everything a developer does, one word each: `make help` lists them.
# PYTHON=/path/to/python3 chooses the interpreter of .venv, PYTEST_ARGS goes to pytest.

SHELL := /bin/sh
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH_STAMP := $(VENV)/.installed-bench
# Apache Beam holds protobuf back, so it gets an environment without TensorFlow.
BEAM_VENV := .venv-beam
BEAM_STAMP := $(BEAM_VENV)/.installed
BEAM_PACKAGES := av numpy opencv-contrib-python-headless pytest
CANDIDATES := $(if $(PYTHON),$(PYTHON),python3 python3.13 python3.12 python3.11)
# The versions of Python that the pinned TensorFlow has wheels for.
SUITABLE := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PIP := $(BIN)/python -m pip --disable-pip-version-check install -c constraints.txt
SOURCES := setup.py bazel layers zoo datasets exports tests benchmarks

.PHONY: bazel beam bench clean demo format help lint pairs soak test venv

help: ## list the targets
	@grep -E '^[a-z]+:.*## ' Makefile | sed 's/:.*## /\t/' | expand -t 10

venv: $(STAMP) ## install everything into .venv, versions as in constraints.txt

demo: $(STAMP) ## train two tiny networks on synthetic scenes, export, predict, report
	$(BIN)/python -m zoo.demo

# Fewer arenas of memory: TensorFlow's threads would each keep much that is free.
test: $(STAMP) ## run every test, the slow ones too
	MALLOC_ARENA_MAX=2 $(BIN)/python -m pytest -n 2 --dist worksteal $(PYTEST_ARGS)

bench: $(BENCH_STAMP) ## measure speed side by side with other libraries
	@set -e; for script in benchmarks/[a-z]*.py; do \
	  echo "== $$script"; $(BIN)/python $$script; done

pairs: $(STAMP) ## train all two-stream networks on moving pairs, three seeds
	$(BIN)/python benchmarks/experiments/what_moves_where.py

soak: $(STAMP) ## serve under mixed load for a minute; the smoke test, without Docker
	$(BIN)/python benchmarks/soak.py --minutes 1
	$(BIN)/python -m tests.try_smoke_test

lint: $(STAMP) ## check style, imports, docstrings and spelling
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/codespell $(SOURCES) docs *.md Makefile pyproject.toml

format: $(STAMP) ## rewrite the sources as `make lint` wants them
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

bazel: $(STAMP) ## build every Bazel target, run the tests tagged smoke
	@command -v bazel >/dev/null || { echo "bazel is missing;" \
	  "on Debian and Ubuntu: apt-get install bazel-bootstrap" >&2; exit 1; }
	PATH="$(CURDIR)/$(BIN):$$PATH"; trap 'bazel shutdown' EXIT; set -e; \
	bazel build //...; bazel test --test_tag_filters=smoke //...

beam: $(BEAM_STAMP) ## test the extraction of flow with Apache Beam, in .venv-beam
	PYTHONPATH=$(CURDIR) $(BEAM_VENV)/bin/python -m pytest --noconftest -W default \
	  tests/test_flow_beam.py

clean: ## remove what the other targets made (also .venv and .venv-beam)
	rm -rf $(VENV) $(BEAM_VENV) .build build dist demo pairs *.egg-info
	rm -rf .pytest_cache .ruff_cache .hypothesis
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

# Kept when it is there already, so that a changed requirement is a short matter.
$(BIN)/python:
	@python=; seen=; \
	for name in $(CANDIDATES); do \
	  version=$$($$name --version 2>/dev/null) || continue; \
	  $$name -c '$(SUITABLE)' || { seen="$$seen $$name ($$version),"; continue; }; \
	  $$name -c 'import ensurepip, venv' 2>/dev/null \
	    || { seen="$$seen $$name ($$version without ensurepip),"; continue; }; \
	  python=$$name; break; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "No suitable Python: Python 3.11, 3.12 or 3.13 with venv and ensurepip is" \
	    "needed; tried $(CANDIDATES), found:$${seen:- none,}" | sed 's/,$$/./' >&2; \
	  echo "On Debian and Ubuntu: apt-get install python3 python3-venv." \
	    "Elsewhere: make $(or $(MAKECMDGOALS),venv) PYTHON=/path/to/python3.11" >&2; \
	  exit 1; \
	fi; \
	echo "$(VENV): $$($$python --version), 3 GB with all packages"; \
	$$python -m venv --clear $(VENV)

# The stamp is written last, so an interrupted installation is done again.
$(STAMP): setup.py constraints.txt | $(BIN)/python
	$(PIP) setuptools wheel
	$(PIP) --no-build-isolation -e '.[dev]'
	@touch $@

$(BENCH_STAMP): $(STAMP)
	$(PIP) --no-build-isolation -e '.[bench]'
	@touch $@

$(BEAM_STAMP): setup.py constraints.txt | $(BIN)/python
	$(BIN)/python -m venv --clear $(BEAM_VENV)
	$(BEAM_VENV)/bin/python -m pip --disable-pip-version-check install \
	  apache-beam==2.77.0 $(foreach name,$(BEAM_PACKAGES),$$(grep '^$(name)==' constraints.txt))
	@touch $@
