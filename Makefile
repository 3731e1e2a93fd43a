# Everything runs from .venv, which the first target makes and later ones reuse. Paths are relative
# and modules are called with `python -m`, so that the project's own path may hold spaces.
PYTHON ?= python3
RUN = .venv/bin/python -m
SETUP_FLAGS = $(if $(filter file,$(origin PYTHON)),,--chosen)

# Without bytecode beside the sources each process compiles thousands of files anew, for seconds.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test check lab bench report

help:
	@echo "make demo   train and compare on a small scale, then show where the results are"
	@echo "make report the whole study as one folder of pages that opens without internet"
	@echo "make lab    open JupyterLab on the notebooks"
	@echo "make test   style, types and every test"
	@echo "make check  the quick loop: style, types and the tests that are not slow, in 2 to 3 minutes"
	@echo "make bench  what an update, the replay, collecting and batches cost"
	@echo "make setup  only create .venv and install the tested packages"
	@echo
	@echo "Each sets up .venv first (about 2.5 GB, a minute); the next time it is reused."
	@echo "PYTHON=python3.12 make demo     choose the Python (3.11 or newer)"
	@echo "PIP_FLAGS='--index-url URL'     pip options for PyTorch alone: with the URL of PyTorch's"
	@echo "                                CPU wheels, Linux saves the CUDA build's gigabytes"

setup:
	@command -v "$(PYTHON)" >/dev/null || { echo "No program $(PYTHON) was found: install Python \
	3.11 or newer, or name one, for example with: make demo PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" tools/setup.py $(SETUP_FLAGS)

demo: setup
	@$(RUN) analysis.demo

# REPORT_FLAGS='--run' runs the notebooks first; '--folder DIR' says where the pages go.
report: setup
	@$(RUN) analysis.report $(REPORT_FLAGS)

# One thread a process: two test processes on two cores are then not slowed by each other.
test check: export OMP_NUM_THREADS = 1
check: SOME = -m "not slow"
test check: setup
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) pytest -n 2 --dist loadscope --no-loadscope-reorder $(SOME)

# JupyterLab refuses to run as root (usual in containers) unless told; it listens on localhost only
# and asks for the token in the address that it prints. From the project's root, runs and reports
# can be reached too; and the form of 01_train may write its cell, through JupyterLab's own commands.
lab: setup
	@$(RUN) jupyterlab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks \
	--LabApp.expose_app_in_browser=True \
	$(if $(filter 0,$(shell id -u)),--allow-root)

# About an hour on a machine with nothing else to do; BENCH_FLAGS='--out bench.md' keeps the table.
bench: setup
	@$(RUN) bench $(BENCH_FLAGS)
