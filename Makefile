# A lakehouse on real servers. `make help` lists what you can do.
SHELL := /bin/sh
PYTHON ?= python3
PROFILE ?= full
BIN := .venv/bin
LAKEHOUSE := $(BIN)/lakehouse
UV := .venv/tools/bin/uv
COMPILE := $(UV) pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet

.DEFAULT_GOAL := help
.PHONY: help venv start stop status demo week test test-unit test-integration test-faults test-observe bench bench-dbt bench-ads check format reference dashboards docs lock clean clean-venv

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

## ---- set-up

# `make venv` makes the one Python environment that everything runs in, Airflow, dbt and Spark included; every other
# target makes it first. It installs exactly what requirements/dev.txt locks, hashes checked, and does nothing when
# the lock has not changed since.
venv: .venv/ready ## make the Python environment from the lock file (also after the lock changed)

# uv stands in an environment of its own, because `uv pip sync` removes what the lock does not name.
$(UV): requirements/uv.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 14) else "Python %s.%s does not fit: use 3.11, 3.12 or 3.13, for example `make PYTHON=python3.12`" % sys.version_info[:2])'
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "Python has no venv: install it (Debian: apt install python3-venv)"; exit 1; }
	@$(PYTHON) -m venv .venv
	@$(PYTHON) -m venv .venv/tools
	@.venv/tools/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@touch $(UV)

.venv/ready: $(UV) requirements/dev.txt pyproject.toml
	@echo "Python environment: about 280 packages, 1 GB to download the first time"
	@$(UV) pip sync --python $(BIN)/python --require-hashes requirements/dev.txt
	@$(UV) pip install --python $(BIN)/python --quiet --no-deps --no-build-isolation -e .
	@touch .venv/ready

lock: $(UV) ## resolve the dependencies anew and write the lock files
	$(COMPILE) --extra dev -o requirements/dev.txt
	echo uv | $(UV) pip compile - --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet -o requirements/uv.txt
	echo duckdb | $(UV) pip compile - --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet -o requirements/bench.txt
	echo 'duckdb-ext[avro,httpfs,iceberg]' | $(UV) pip compile - --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet -o requirements/connect.txt
	$(BIN)/python -c 'from lakehouse.settings import get_settings; from lakehouse.stack.maven import lock; lock(get_settings())'

## ---- run

# `make start` installs the servers that are missing, starts all of them in order, Airflow and the ad API included, and
# returns when each is healthy, with addresses and logins. Run it again at any time: it starts what does not run.
# PROFILE=observe adds what watches over them: the exporter, Prometheus and Alertmanager.
start: venv ## start the servers (PROFILE=core leaves Airflow out, PROFILE=observe adds Prometheus and alerts)
	@$(LAKEHOUSE) stack up --profile $(PROFILE)

stop: venv ## stop every server that `make start` started
	@$(LAKEHOUSE) stack down

status: venv ## show each server's pid, port, memory and health
	@$(LAKEHOUSE) stack status

demo: venv ## the whole road: events from Kafka to a daily aggregate, by the real servers
	@$(LAKEHOUSE) demo

week: venv ## a week of events through the real DAGs in about half an hour, and whether all is as it should be after it
	@$(LAKEHOUSE) week

docs: venv ## make the dbt docs and serve them
	@$(LAKEHOUSE) docs

## ---- hold the quality

check: venv ## lint, types, layers: everything that needs no server
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/sqlfluff lint --disable-progress-bar dbt/models dbt/tests

format: venv ## format the code
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

reference: venv ## write the generated pages of docs/: commands, settings, tables
	@$(BIN)/python -m lakehouse.cli.reference

# Their thresholds come from the alert rules: run it when those change, too. A test holds the files to this.
dashboards: venv ## write the Grafana dashboards of compose/grafana/ from their code
	@$(BIN)/python -m compose.grafana.build

# `make test` runs all tests but most of the crash matrix, on the real servers: a stack that runs is used and left
# running, else it starts one and stops it at the end. `make test-unit` needs no server.
test: venv ## every test; starts the servers it needs and stops what it started
	$(BIN)/pytest

test-unit: venv ## the tests that need no server
	$(BIN)/pytest -m "not integration"

test-integration: venv ## the tests on the real servers
	$(BIN)/pytest -m "integration and not faults and not observe"

test-faults: venv ## the rest of the crash matrix, real kills, restarts and broken connections, and what else takes long; an hour
	$(BIN)/pytest -m faults

# It starts a stack of its own with Prometheus and Alertmanager, stops servers, plants a gap, sends bad events, and waits
# until each alert arrives and ends.
test-observe: venv ## the live alerts and dashboards, on a stack that is broken on purpose; about six minutes
	$(BIN)/pytest -m observe

## ---- measure

.venv/bench-ready: .venv/ready requirements/bench.txt
	@$(UV) pip install --python $(BIN)/python --quiet --require-hashes -r requirements/bench.txt
	@touch .venv/bench-ready

bench: .venv/bench-ready ## measure ingest beside its rivals, about an hour; writes bench/results/ and docs/benchmarks.md (BENCH=--quick: small sizes)
	@$(BIN)/python -m bench $(BENCH)

bench-dbt: venv ## measure a day's build beside 7 and 365 days of history, and what the layout saves; writes bench/results/ and docs/benchmarks.md (BENCH=--quick: small sizes)
	@$(BIN)/python -m bench.warehouse $(BENCH)

bench-ads: venv ## measure loading and archiving of ad data beside PostgreSQL's own COPY; writes bench/results/ and docs/benchmarks.md (BENCH=--quick: small sizes)
	@$(BIN)/python -m bench.ads $(BENCH)

## ---- clean

clean: ## stop the servers and remove their data and logs; keeps the environment and the shared cache
	@if [ -x $(LAKEHOUSE) ]; then $(LAKEHOUSE) stack down; fi
	rm -rf .lakehouse dbt/target dbt/logs

clean-venv: ## remove the Python environment
	rm -rf .venv
