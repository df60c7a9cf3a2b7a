# make run    set everything up and run the main sweep: train, evaluate nine attention budgets, draw the figures
# make test   set everything up and pass the tests
# make test-long   the tests that take minutes
# make docs   the documentation as a site with search, in build/site; a link that leads nowhere is an error
PYTHON ?= python3
BIN := .venv/bin
TEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest

# The longest files: begun last, one of them would keep one process waiting for the other.
FIRST := $(addprefix tests/,slurm/test_cluster.py training/test_together.py kernels/test_triton.py ablations/test_end_to_end.py)

.PHONY: run test test-long docs setup check format clean

run: .venv/ready
	$(BIN)/python ablations/run.py --grid budget

# Two processes; the tests on a real Slurm, which mostly wait, come first. Tests start some hundred Pythons: what these
# import is compiled once, whatever the machine has set.
test: .venv/ready-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(TEST) -n 2 --dist loadfile --no-loadscope-reorder $(FIRST) tests

# They need Chromium, too: sudo apt-get install chromium
test-long: .venv/ready-dev
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,browser,bench]'
	$(TEST) -m long

# The site has the repository's own layout, so that links are the same here and there.
docs: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt 'zensical>=0.0.73,<0.1'
	rm -rf build/pages && mkdir -p build/pages
	cp -r --parents README.md CONTRIBUTING.md CHANGELOG.md CITATION.cff LICENSE docs benchmarks/notes.md build/pages
	$(BIN)/zensical build --clean --strict
	@echo build/site/index.html

setup: .venv/ready

format: .venv/ready-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv runs build

.venv/ready: pyproject.toml constraints.txt .ci/setup videonsa/videonsa_torchvision.pth
	PYTHON=$(PYTHON) .ci/setup
	@touch $@

.venv/ready-dev: pyproject.toml constraints.txt .ci/setup videonsa/videonsa_torchvision.pth
	PYTHON=$(PYTHON) .ci/setup dev
	@touch $@ .venv/ready
