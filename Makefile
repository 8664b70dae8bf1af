# Needs Python 3.11 or newer and make; everything else is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := work-demo

SECONDS ?= 600
SEED ?= 0
KILLS ?= 200
N ?= 20

.PHONY: demo docs test test-slow test-all check format clean-demo fuzz kill mutants

demo: $(READY)  ## build the embedded sample at 1024x1024, from photos to HDF5 and report
	$(BIN)/python build.py --celeba-root tests/sample/celeba --out $(DEMO) --recipe pipelines/demo.toml

docs: $(READY)  ## the documentation as a site, build/site/index.html; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

# A fifth of the time of the tests is that of child processes, most of which would compile the package again if the
# environment forbade bytecode.
test test-slow test-all: export PYTHONDONTWRITEBYTECODE =

test: $(READY)  ## the tests, without those that are marked slow
	$(BIN)/python -m pytest -n auto --dist worksteal -rs -m "not slow"

test-slow: $(READY)  ## the tests that are marked slow: kills of whole builds, torchrun, official MD5s
	$(BIN)/python -m pytest -n auto --dist worksteal -rs -m slow

test-all: $(READY)  ## all tests
	$(BIN)/python -m pytest -n auto --dist worksteal

# The benchmarks are checked for names and arguments that the package no longer has, not for what libraries type loosely.
LOOSE = --no-warn-unused-ignores $(addprefix --disable-error-code=,arg-type assignment dict-item index misc no-any-return no-untyped-call \
	operator return-value var-annotated)

check: $(READY)  ## format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	MYPYPATH=benchmarks $(BIN)/mypy --explicit-package-bases $(LOOSE) benchmarks/*.py benchmarks/restoring/*.py
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

fuzz: $(READY)  ## mutated inputs for everything that is read, SECONDS= and SEED= (not part of the tests)
	$(BIN)/python -m benchmarks.fuzz --seconds $(SECONDS) --seed $(SEED)

kill: $(READY)  ## SIGKILL at random moments of the commands that write, KILLS= and SEED= (not part of the tests)
	$(BIN)/python -m benchmarks.kill --kills $(KILLS) --seed $(SEED)

mutants: $(READY)  ## small faults in FILE=celebahq_builder/x.py that its tests should notice, N= and SEED=
	$(BIN)/python benchmarks/mutants.py $(FILE) --sample $(N) --seed $(SEED)

clean-demo:
	rm -rf $(DEMO)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit(f"Python 3.11 or newer is needed, this is {v.major}.{v.minor}; try make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	# Without its dependencies: of torch-fidelity only Inception is used, which needs torch alone; torchvision it asks
	# for besides, which would have to fit torch to the very release.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --constraint constraints.txt torch-fidelity
	touch $@
