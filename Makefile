# Every command of the project; `make` alone lists them. The virtual environment is made when it is first needed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help run demo check test test-all test-core chaos fuzz lint audit format schemas reference docs bench bench-report bench-smoke bench-core bench-bad bench-memory lock clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# A lock names every package with its version and hashes, so pip resolves nothing. `pip check` fails if a package is missing.
LOCKED := install --quiet --no-deps --require-hashes --requirement

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip $(LOCKED) requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	$(BIN)/pip check
	@touch $@

RATE ?= 500
SEED ?= 1

run: $(READY) ## Kafka, a worker and a shop that sends, on this machine (RATE=500 COUNT=, without: until Ctrl-C)
	$(BIN)/session-worker local --rate $(RATE) $(if $(COUNT),--count $(COUNT)) --seed $(SEED)

demo: COUNT ?= 50000
demo: $(READY) ## simulate a retailer's day, replay it, show what came of it (COUNT=50000 SEED=1)
	@mkdir -p build
	$(BIN)/session-worker simulate --count $(COUNT) --seed $(SEED) --out build/updates.jsonl
	$(BIN)/session-worker replay build/updates.jsonl --output build/published.jsonl --summary
	@echo "what went in: build/updates.jsonl    what came out: build/published.jsonl"

check: lint docs test-all bench-smoke ## everything that has to pass before a change lands

PYTEST := $(BIN)/pytest --numprocesses 2 --dist loadfile # each process has a Kafka of its own

test: $(READY) ## run the tests, with branch coverage of domain, codec and pipeline
	$(PYTEST) --cov --cov-report=term --ignore tests/kafka/test_versions.py

test-all: $(READY) ## run every test, also on the oldest Kafka that is supported
	$(PYTEST) --cov --cov-report=term

test-core: $(READY) ## run the tests that need no Kafka and install nothing
	$(PYTEST) --ignore tests/kafka --ignore tests/chaos --ignore tests/install

ROUNDS ?= 100

chaos: $(READY) ## faults by a seeded schedule, judged by a verifier that believes nobody (ROUNDS=100 SEED=1)
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

fuzz: $(FUZZ_READY) ## hostile records, led by coverage, against the oracle (SECONDS=600; wheels for Linux only)
	$(FUZZ)/bin/python -m tests.fuzz -max_total_time=$(SECONDS) -print_final_stats=1

lint: $(READY) ## ruff, mypy, bandit, the import law
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml worker

AUDIT := .venv-audit
AUDIT_READY := $(AUDIT)/.ready

$(AUDIT_READY): .ci/audit.lock
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/pip $(LOCKED) $<
	$(AUDIT)/bin/pip check
	@touch $@

audit: $(AUDIT_READY) ## look for known vulnerabilities in what is installed (asks PyPI itself: few mirrors know)
	$(AUDIT)/bin/pip-audit --strict --disable-pip --require-hashes --requirement requirements.lock

format: $(READY) ## put the code in its form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

schemas: $(READY) ## write schemas/ anew from the code
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

bench-core: $(READY) ## µs a record to validate, fold, encode, and the whole
	$(BIN)/python -m bench.core

bench-bad: $(READY) ## what bad records and bad neighbours cost the others
	$(BIN)/python -m bench.bad

bench-memory: $(READY) ## bytes of memory for a session and for a profile, in memory and with RocksDB
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

bench: $(READY) $(STREAMS_JAR) $(QUIX_READY) ## records a second beside Kafka Streams, Quix Streams, Faust (needs Java 17, Maven)
	$(BIN)/python -m bench --save

bench-report: $(READY) ## the figures that make bench kept, as the tables and the plot of docs/internals/performance.md
	$(BIN)/python -m bench.report

bench-smoke: $(READY) $(QUIX_READY) ## that every contestant in Python still does the job (without figures)
	$(BIN)/python -m bench.peers.same worker "Quix Streams" "stock Faust" --count 1000 --sessions 100

COMPILE := $(BIN)/uv pip compile --quiet --upgrade --universal --generate-hashes --no-emit-index-url --no-header

lock: $(READY) ## resolve the versions of every lock again
	$(COMPILE) --extra dev --output-file requirements.lock pyproject.toml
	$(COMPILE) --extra rocksdb --constraint requirements.lock --output-file deploy/image.lock pyproject.toml
	echo hatchling | $(COMPILE) --python-version 3.11 --constraint requirements.lock --output-file deploy/build.lock -
	echo pip-audit | $(COMPILE) --python-version 3.11 --output-file .ci/audit.lock -
	echo mkdocs-material | $(COMPILE) --python-version 3.11 --output-file docs/requirements.txt -

clean: ## remove what was built
	rm -rf $(VENV) $(AUDIT) $(DOCS) build .mypy_cache .pytest_cache .ruff_cache .coverage .hypothesis .import_linter_cache
