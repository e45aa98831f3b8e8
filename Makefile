# Two commands do everything, installation included: `make demo` and `make check`. While you work: `make test`.
PYTHON ?= $(shell for v in 3.13 3.12 3.11; do python$$v -c 'import sys; print(sys.executable)' 2>/dev/null && break; done)
# `make install TORCH=default` leaves to pip which build of torch it takes; otherwise the one without CUDA if its index answers
TORCH ?= cpu
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
# the extras of pyproject.toml that are installed
EXTRAS ?= dev
BIN := .venv/bin
# of 16,000 modules few are ever imported: Python compiles those when they are
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
# threads that wait for each other must not spin: the processes share the cores
PYTEST := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

# Hundreds of processes import the same modules: without kept bytecode, as in most container images, each compiles them.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install demo docs format lint guard test check suite proofs bench-device chaos outages fuzz soak clean
install: .venv/.complete

# An incomplete environment has no .complete and is completed; if nothing changed, nothing is done.
.venv/.complete: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { \
		echo "mc2sf needs Python 3.11, 3.12 or 3.13, and none works on the PATH."; \
		echo "Install one with its venv module (Debian, Ubuntu: apt install python3-venv) or set PYTHON=/path/to/python3."; exit 1; }
	@$(BIN)/python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null || $(PYTHON) -m venv --clear .venv
	@if [ "$(TORCH)" = cpu ] && $(BIN)/python -c 'import sys, urllib.request as u; u.urlopen(sys.argv[1] + "/torch/", timeout=5)' "$(TORCH_INDEX)" 2>/dev/null; then \
		echo "Downloading into .venv: torch without CUDA (200 MB) from $(TORCH_INDEX), then the other packages (400 MB) from PyPI"; \
		$(PIP) --no-deps --only-binary=:all: --index-url "$(TORCH_INDEX)" "$$(grep '^torch==' constraints.txt)"; \
	else \
		echo "Downloading into .venv: torch in the build that pip chooses (on Linux with CUDA libraries: 3 GB) and the other packages (400 MB)"; \
	fi
	$(PIP) --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@

demo: install
	$(BIN)/mc2sf run synthetic:users=800 --out runs/demo

# The generated pages: docs/reference and docs/summary.schema.json.
docs: install
	$(BIN)/python -m deploy.reference docs

format: install
	$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format --quiet .

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pip check --disable-pip-version-check

# The tests that need no broker, no browser, no second process and no long training.
test: install
	$(PYTEST) -m "not process and not proof and not slow"

# Everything that a change must pass. With PROOFS=1, as in CI, tests and proofs are one session: the servers and the runs
# that both need are made once.
check: lint guard suite

# Ratios of CPU times that must not become worse.
guard: install
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.guard

suite: install
	$(PYTEST) $(if $(PROOFS),,-m "not proof")

# Whole runs under kill -9, outages, damaged records and other faults, and on Apache Kafka and PostgreSQL.
proofs: install
	$(PYTEST) -m "proof"

bench-device: .venv/.bench
	$(BIN)/python -m benchmarks.device.compare $(ARGS)

# Runs under kill -9 on the Apache Kafka in KAFKA_HOME: the rows are kept in benchmarks/faults/chaos.json.
SCHEDULES ?= 100
SEED ?= 1
chaos: install
	$(BIN)/python -m benchmarks.faults.chaos --schedules $(SCHEDULES) --seed $(SEED) $(ARGS)

# Broker, database and disk away for SECONDS, workers paused and scaled: benchmarks/faults/outages.json.
SECONDS ?= 60
outages: install
	$(BIN)/python -m benchmarks.faults.outages --seconds $(SECONDS) $(ARGS)

# Damaged records on every topic of a run on the Apache Kafka in KAFKA_HOME: benchmarks/faults/fuzz.json.
RECORDS ?= 1000000
fuzz: install
	$(BIN)/python -m benchmarks.faults.fuzz --records $(RECORDS) --seed $(SEED) $(ARGS)

# A looped replay on the Apache Kafka in KAFKA_HOME and on PostgreSQL: memory, open files and lag in benchmarks/faults/soak.json.
MINUTES ?= 60
soak: install
	$(BIN)/python -m benchmarks.faults.soak --minutes $(MINUTES) $(ARGS)

.venv/.bench: .venv/.complete
	$(PIP) --constraint constraints.txt --editable '.[bench]'
	@touch $@

clean:
	rm -rf .venv runs
