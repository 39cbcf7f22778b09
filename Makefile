# make lab    reads and runs the notebooks in JupyterLab
# make test   runs all the tests
# Both set up .venv by themselves; only the first time takes minutes. With GPU=1, as in
# `make lab GPU=1`, they bring CUDA's libraries for an NVIDIA GPU as well (Linux; gigabytes).

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check
LAB_LOCK := $(if $(filter 1,$(GPU)),requirements-gpu.lock,requirements.lock)
TEST_LOCK := $(if $(filter 1,$(GPU)),requirements-gpu.lock,requirements-test.lock)
NB ?= $(wildcard notebooks/[0-9]*.ipynb)

.DEFAULT_GOAL := lab
.PHONY: lab test soak notebooks look strict-matrix mutants bench bench-short lint lock clean

lab: $(VENV)/.$(LAB_LOCK)
	$(PY) tools/lab.py notebooks/00_start_here.ipynb

test: $(VENV)/.$(TEST_LOCK)
	$(PY) -m pytest -n 2 --nbval notebooks/
	$(PY) -m pytest -n 2 --dist worksteal tests/

# Training killed at twenty random times, workers lost, more seeds: what takes too long for `test`.
soak: $(VENV)/.$(TEST_LOCK)
	$(PY) -m pytest -n 2 tests/soak.py

# Runs notebooks from cold kernels and saves their outputs; NB=notebooks/03_bottleneck.ipynb for one.
notebooks: $(VENV)/.$(TEST_LOCK)
	$(PY) tools/run_notebook.py $(NB)

# Writes a picture of each whole notebook, as JupyterLab shows it, to pictures/.
look: $(VENV)/.$(TEST_LOCK)
	$(PY) tools/browse.py pictures $(NB)

# The notebooks are strict on other processors too: no oneDNN, older instructions, one core, and
# one that stands for a GPU: products rounded as TF32, and the ways that a GPU is trained in.
strict-matrix: $(VENV)/.$(TEST_LOCK)
	TF_ENABLE_ONEDNN_OPTS=0 $(PY) -m pytest --nbval notebooks/
	ONEDNN_MAX_CPU_ISA=AVX2 $(PY) -m pytest --nbval notebooks/
	taskset -c 0 $(PY) -m pytest --nbval notebooks/
	PYTHONPATH=tests/as_gpu $(PY) -m pytest --nbval notebooks/

# Breaks the package in some sixty ways, one at a time: the tests must notice each.
mutants: $(VENV)/.$(TEST_LOCK)
	$(PY) tools/mutants.py

# Speed and memory beside every peer that is installed there, then how they grow: about an hour.
# Stop at any time; the same command goes on.
bench: $(VENV)/.$(TEST_LOCK)
	$(PY) benchmarks/side_by_side.py
	$(PY) benchmarks/cost_against_size.py

# The first table, roughly, in about two minutes; nothing is recorded.
bench-short: $(VENV)/.$(TEST_LOCK)
	$(PY) benchmarks/side_by_side.py --short

lint: $(VENV)/.$(TEST_LOCK)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

# Keeps the locked versions that still fit; delete the locks first to move to the newest ones.
COMPILE := .venv-lock/bin/uv pip compile --no-config --quiet --universal --python-version 3.11 \
	--fork-strategy fewest --generate-hashes --no-annotate --no-emit-index-url \
	--custom-compile-command "make lock" pyproject.toml

lock: .venv-lock/.created
	.venv-lock/bin/python -m pip install --quiet uv
	$(COMPILE) --output-file requirements.lock
	$(COMPILE) --output-file requirements-test.lock --extra test --constraints requirements.lock
	$(COMPILE) --output-file requirements-gpu.lock --extra test --extra gpu \
		--constraints requirements-test.lock

clean:
	rm -rf $(VENV) .venv-lock build pictures .hypothesis .pytest_cache .ruff_cache .settings *.egg-info

# Each stamp is newer than what it was made from, so a second run has nothing to set up.
$(VENV)/.%.lock: %.lock pyproject.toml $(VENV)/.created
	@echo "Installing the packages of $< into $(VENV) (minutes, the first time)"
	@$(INSTALL) --require-hashes --requirement $<
	@$(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

# Named, not a pattern: make would delete a stamp that only patterns mention, and clear the
# environment again for the other command.
$(VENV)/.created .venv-lock/.created:
	@$(PYTHON) -c "import sys; (3, 11) <= sys.version_info[:2] <= (3, 13) or sys.exit( \
	'$(PYTHON) is Python %d.%d; this needs 3.11 to 3.13, as in: make PYTHON=python3.12' \
	% sys.version_info[:2])"
	@$(PYTHON) -c "import ensurepip, venv" 2> /dev/null || { echo "$(PYTHON) can't make an \
	environment; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(@D)
	@touch $@
