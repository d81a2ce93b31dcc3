# `make run` and `make test` do everything on a fresh machine; `make help` lists the rest.
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: help install run test faults coverage bench reproduce params ui compare clean
DATASET ?= data
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

install: $(BIN)/.installed ## set up .venv with the pinned packages

$(BIN)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if (3, 11) <= v < (3, 14) else f"Python 3.11 to 3.13 is needed, but {sys.executable} is {v[0]}.{v[1]}. Use make PYTHON=python3.11 …")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@grep -q MLFLOW_DISABLE_TELEMETRY $(BIN)/activate || echo 'export MLFLOW_DISABLE_TELEMETRY=true' >> $(BIN)/activate
	@touch $@

# the tests also need every extra
$(BIN)/.installed-dev: requirements-dev.lock $(BIN)/.installed
	$(BIN)/python -m pip install --quiet --requirement requirements-dev.lock
	@touch $@

run: install ## run the pipeline, then show its metrics and what to do next
	@git rev-parse --git-dir >/dev/null 2>&1 || test -e .git || { dvc config --local core.no_scm true && \
	echo "No git repository here: the pipeline runs, but not dvc exp. For dvc exp: git init && git add --all && git commit -m start && dvc config --local --unset core.no_scm"; }
	dvc repro
	@python -m image_classifier summary

test: $(BIN)/.installed-dev ## lint, check layers and types, and run the tests
	ruff check .
	ruff format --check .
	lint-imports
	mypy
	pytest -n 2 --dist loadfile --no-loadscope-reorder

faults: $(BIN)/.installed-dev ## run the long tests: many jobs at once, several servers
	pytest -m slow

coverage: export COVERAGE_FILE := $(CURDIR)/.coverage
coverage: $(BIN)/.installed-dev ## run the tests, and list the lines that none of their processes ran
	coverage erase
	coverage run -m pytest -n 2 --dist loadfile --no-loadscope-reorder
	coverage combine --quiet
	coverage report

bench: install ## compare with the article's way, on the images in the folder DATASET=…
	python benchmarks/run.py "$(DATASET)"

reproduce: install ## repeat the MLflow run RUN=id, and compare weights and metrics
	python -m image_classifier reproduce "$(or $(RUN),$(error set RUN=id, the id of a run in MLflow))"

params: install ## write params.yaml, and the reference of all settings, from conf/
	python -m image_classifier config > params.yaml.new
	mv params.yaml.new params.yaml
	python docs/configuration.py > docs/configuration.md.new
	mv docs/configuration.md.new docs/configuration.md

ui: install ## open the MLflow UI on http://127.0.0.1:5000
	mlflow ui --backend-store-uri sqlite:///mlflow.db

compare: install ## show all experiments in a table: the metrics, and the settings that differ
	dvc exp show --only-changed --drop 'src/|build/|data$$'

clean: ## remove the output of the pipeline, but not its MLflow runs
	rm -rf build runs .coverage* .pytest_cache .mypy_cache .ruff_cache
