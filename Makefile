# Every command of the project; `make` without a target lists them. The first command creates the virtual environment.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help run demo check test test-all test-core chaos fuzz lint audit format schemas reference docs bench bench-report bench-smoke bench-core bench-bad bench-memory lock clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# A lock has every package with its version and hashes, so pip resolves no version. `pip check` fails if a package is missing.
LOCKED := install --quiet --no-deps --require-hashes --requirement

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip $(LOCKED) requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	$(BIN)/pip check
	@touch $@

RATE ?= 500
SEED ?= 1

run: $(READY) ## run Kafka, a worker and a simulated shop here (RATE=500 COUNT=; without COUNT: until Ctrl-C)
	$(BIN)/session-worker local --rate $(RATE) $(if $(COUNT),--count $(COUNT)) --seed $(SEED)

demo: COUNT ?= 50000
demo: $(READY) ## simulate a retailer's day, replay it and print a summary (COUNT=50000 SEED=1)
	@mkdir -p build
	$(BIN)/session-worker simulate --count $(COUNT) --seed $(SEED) --out build/updates.jsonl
	$(BIN)/session-worker replay build/updates.jsonl --output build/published.jsonl --summary
	@echo "input: build/updates.jsonl    output: build/published.jsonl"

check: lint docs test-all bench-smoke ## run all checks that a change must pass

# Most of the time, tests of Kafka wait: more processes than cores. tests/conftest.py distributes the tests.
PROCESSES ?= 5
PYTEST := $(BIN)/pytest --numprocesses $(PROCESSES) --dist loadscope --no-loadscope-reorder
unexport PYTHONDONTWRITEBYTECODE # tests start hundreds of workers; each would compile the worker again

test: $(READY) ## run the tests without chaos and installs, each kind of Kafka test once (PROCESSES=5)
	$(PYTEST) --ignore tests/chaos --ignore tests/install -m "not kafka or smoke"

test-all: $(READY) ## run every test, with branch coverage of domain, codec and pipeline
	$(PYTEST) --cov --cov-report=term

test-core: $(READY) ## run the tests that need no Kafka and install nothing
	$(PYTEST) --numprocesses auto --ignore tests/kafka --ignore tests/chaos --ignore tests/install

ROUNDS ?= 100

chaos: $(READY) ## inject faults by a seeded schedule and verify the topics (ROUNDS=100 SEED=1)
	$(BIN)/python -m tests.chaos --rounds $(ROUNDS) --seed $(SEED)

FUZZ := tests/fuzz/.venv-fuzz
FUZZ_READY := $(FUZZ)/.ready
SECONDS ?= 600

$(FUZZ_READY): tests/fuzz/requirements.txt requirements.lock
	$(PYTHON) -m venv $(FUZZ)
	$(FUZZ)/bin/pip $(LOCKED) requirements.lock
	$(FUZZ)/bin/pip $(LOCKED) $<
	$(FUZZ)/bin/pip check
	@touch $@

fuzz: $(FUZZ_READY) ## fuzz with hostile records, guided by coverage, against the oracle (SECONDS=600; Linux only)
	$(FUZZ)/bin/python -m tests.fuzz -max_total_time=$(SECONDS) -print_final_stats=1

lint: $(READY) ## run ruff, mypy, bandit, the import law and the language check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml worker
	$(BIN)/python -m tests.language

AUDIT := .venv-audit
AUDIT_READY := $(AUDIT)/.ready

$(AUDIT_READY): .ci/audit.lock
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/pip $(LOCKED) $<
	$(AUDIT)/bin/pip check
	@touch $@

audit: $(AUDIT_READY) ## check the installed packages for known vulnerabilities (queries PyPI; few mirrors have the data)
	$(AUDIT)/bin/pip-audit --strict --disable-pip --require-hashes --requirement requirements.lock

format: $(READY) ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

schemas: $(READY) ## generate schemas/ from the code
	$(BIN)/session-worker schemas

reference: $(READY) ## write docs/reference from the code
	$(BIN)/session-worker reference

DOCS := .venv-docs
DOCS_READY := $(DOCS)/.ready

$(DOCS_READY): docs/requirements.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/pip $(LOCKED) $<
	$(DOCS)/bin/pip check
	@touch $@

docs: $(DOCS_READY) ## build the site of the documentation into build/site; a broken link fails
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict --quiet

bench-core: $(READY) ## measure µs per record: validate, fold, encode, total
	$(BIN)/python -m bench.core

bench-bad: $(READY) ## measure what bad records and bad sessions cost others
	$(BIN)/python -m bench.bad

bench-memory: $(READY) ## measure bytes per session and per profile, in memory and with RocksDB
	$(BIN)/python -m bench.memory

STREAMS := bench/peers/kafka_streams
STREAMS_JAR := $(STREAMS)/target/kafka-streams-peer.jar
QUIX := bench/peers/.venv-quix
QUIX_READY := $(QUIX)/.ready

$(STREAMS_JAR): $(STREAMS)/pom.xml $(shell find $(STREAMS)/src -type f)
	mvn -q -f $(STREAMS) package

$(QUIX_READY): bench/peers/quix-requirements.txt
	$(PYTHON) -m venv $(QUIX)
	$(QUIX)/bin/pip $(LOCKED) $<
	$(QUIX)/bin/pip check
	@touch $@

bench: $(READY) $(STREAMS_JAR) $(QUIX_READY) ## compare records per second with Kafka Streams, Quix Streams, Faust (needs Java 17, Maven)
	$(BIN)/python -m bench --save

bench-report: $(READY) ## write the saved figures of make bench into docs/internals/performance.md
	$(BIN)/python -m bench.report

bench-smoke: $(READY) $(QUIX_READY) ## check that every contestant in Python is correct (no figures)
	$(BIN)/python -m bench.peers.same worker "Quix Streams" "stock Faust" --count 1000 --sessions 100

COMPILE := $(BIN)/uv pip compile --quiet --upgrade --universal --generate-hashes --no-emit-index-url --no-header

lock: $(READY) ## resolve the versions of every lock
	$(COMPILE) --extra dev --output-file requirements.lock pyproject.toml
	$(COMPILE) --extra rocksdb --constraint requirements.lock --output-file deploy/image.lock pyproject.toml
	echo hatchling | $(COMPILE) --python-version 3.11 --constraint requirements.lock --output-file deploy/build.lock -
	echo pip-audit | $(COMPILE) --python-version 3.11 --output-file .ci/audit.lock -
	echo mkdocs-material | $(COMPILE) --python-version 3.11 --output-file docs/requirements.txt -

clean: ## remove generated files
	rm -rf $(VENV) $(AUDIT) $(DOCS) build .mypy_cache .pytest_cache .ruff_cache .coverage .hypothesis .import_linter_cache
