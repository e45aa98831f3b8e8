# Two commands do everything, set-up included: `make demo` and `make check`.
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: install demo docs check format bench-device chaos outages fuzz soak clean
install: .venv/.complete

# A half-finished environment has no .complete and is made again from what is there; nothing changed: nothing done.
.venv/.complete: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "mc2sf needs Python 3.11: set PYTHON=/path/to/python3.11"; exit 1; }
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: install
	$(BIN)/mc2sf run synthetic:users=800 --out runs/demo

# The generated pages: docs/reference and docs/summary.schema.json.
docs: install
	$(BIN)/python -m deploy.reference docs

format: install
	$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format --quiet .

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pip check --disable-pip-version-check
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

bench-device: .venv/.bench
	$(BIN)/python -m benchmarks.device $(ARGS)

# Runs under kill -9 on the Apache Kafka in KAFKA_HOME: the rows are kept in benchmarks/chaos.json.
SCHEDULES ?= 100
SEED ?= 1
chaos: install
	$(BIN)/python -m benchmarks.chaos --schedules $(SCHEDULES) --seed $(SEED) $(ARGS)

# Broker, database and disk away for SECONDS, workers paused and scaled: benchmarks/outages.json.
SECONDS ?= 60
outages: install
	$(BIN)/python -m benchmarks.outages --seconds $(SECONDS) $(ARGS)

# Damaged records on every topic of a run on the Apache Kafka in KAFKA_HOME: benchmarks/fuzz.json.
RECORDS ?= 1000000
fuzz: install
	$(BIN)/python -m benchmarks.fuzz --records $(RECORDS) --seed $(SEED) $(ARGS)

# A looped replay on the Apache Kafka in KAFKA_HOME and on PostgreSQL: memory, open files and lag in benchmarks/soak.json.
MINUTES ?= 60
soak: install
	$(BIN)/python -m benchmarks.soak --minutes $(MINUTES) $(ARGS)

.venv/.bench: .venv/.complete
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	@touch $@

clean:
	rm -rf .venv runs
