# The two commands a fresh machine needs are `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1
export ORT_DISABLE_TELEMETRY := 1
export HF_HUB_OFFLINE := 1
export OMP_NUM_THREADS := 1

.PHONY: demo test check stubs clean

demo: .venv/installed
	$(BIN)/dewfall demo

# Real processes want the machine to themselves; the rest shares it, a file at a time.
test: .venv/installed
	$(BIN)/pytest -m "not system" --numprocesses logical --maxprocesses 4 --dist loadfile
	$(BIN)/pytest -m system

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

stubs: .venv/installed
	$(BIN)/python -m protos.generate

# pip, not uv: constraints.txt pins the CPU build of torch that pip finds.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf out build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
