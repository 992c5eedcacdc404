# Needs Python 3.11 or newer with venv, make and git. Everything else is installed into .venv.
#
#   make table   set everything up, then print the table     make table ARGS="--rows metal"
#   make test    set up, then lint, types, import contract, dead code, tests
#   make test-external   with programs of other makers, which it installs (Debian; needs root): nbdkit, QEMU, tcpdump
#   make fuzz    random cases for SECONDS=60, from SEED=0 on (ARGS="page_tables" for one fuzzer alone)
#   make bench   speed ratios      make wheel   dist/*.whl      make fmt   format      make clean   start afresh

PYTHON ?= python3
ARGS ?=
SECONDS ?= 60
SEED ?= 0
BIN := .venv/bin
CODE := $(wildcard hv modes tui guest_kernel tests labs instructor)
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check install --constraint requirements.lock

# What the guest kernel and the microcode are built from.
SOURCES := $(shell find guest_kernel hv/silicon -name '*.[chS]' -o -name '*.ld') \
           guest_kernel/build.py guest_kernel/hatch_build.py
BUILT := hv/_built/kernel.elf

.PHONY: table test test-external fuzz bench wheel fmt clean
.DELETE_ON_ERROR:

table: $(BUILT)
	@$(BIN)/hv table $(ARGS)

test: .venv/ready-to-test $(BUILT)
	@echo "== ruff";         $(BIN)/ruff check --quiet $(CODE)
	@echo "== ruff format";  $(BIN)/ruff format --quiet --check $(CODE)
	@echo "== mypy";         $(BIN)/mypy $(CODE)
	@echo "== lint-imports"; $(BIN)/lint-imports --no-logo
	@echo "== vulture";      $(BIN)/vulture
	@echo "== pytest";       $(BIN)/pytest -n 2 $(ARGS)

test-external: .venv/ready-to-test $(BUILT)
	@tests/external/install.sh
	@$(BIN)/pytest -m external tests/external $(ARGS)

fuzz: .venv/ready-to-test $(BUILT)
	@$(BIN)/python -m tests.fuzz $(ARGS) --seconds $(SECONDS) --seed $(SEED)

bench: $(BUILT)
	@$(BIN)/hv bench $(ARGS)

wheel: $(BUILT)
	@$(BIN)/python -m pip --quiet --disable-pip-version-check wheel --no-deps --no-build-isolation --wheel-dir dist .
	@ls dist/*.whl

fmt: .venv/ready-to-test
	@$(BIN)/ruff check --quiet --fix $(CODE) || true
	@$(BIN)/ruff format $(CODE)

clean:
	rm -rf .venv dist hv/_built .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- how things come about ---

.venv/ready-to-run: pyproject.toml requirements.lock
	@echo "setting up .venv"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hv needs Python 3.11 or newer; try make PYTHON=python3.12")'
	@$(PYTHON) -m venv .venv
	@$(PIP) hatchling ziglang
	@$(PIP) --no-build-isolation --editable .
	@touch $@

.venv/ready-to-test: .venv/ready-to-run
	@echo "setting up the tools for the tests"
	@$(PIP) --requirement requirements.lock
	@touch $@

$(BUILT): $(SOURCES) | .venv/ready-to-run
	@echo "building the guest kernel and the microcode"
	@$(BIN)/python guest_kernel/hatch_build.py
