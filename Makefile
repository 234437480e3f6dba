PYTHON ?= python

.PHONY: test test-all lowest soak lint docs bench gpu demo

test:
	$(PYTHON) -m pytest -n 2 -m "not slow and not reliability"

test-all:
	$(PYTHON) -m pytest -n 2 --cov=luzpy --cov-report=term-missing:skip-covered

lowest:  # the lowest versions that pyproject.toml allows; needs uv
	uv venv --allow-existing .venv-lowest
	uv pip install --python .venv-lowest --resolution lowest-direct -e '.[test]'
	.venv-lowest/bin/python -m pytest -n 2 -m "not slow and not reliability" \
		-W ignore::DeprecationWarning -W ignore::FutureWarning

soak:
	LUZPY_SOAK=1 OMP_NUM_THREADS=1 $(PYTHON) -m pytest tests/reliability
	OMP_NUM_THREADS=1 $(PYTHON) tests/reliability/kill_grid.py --write docs/reliability.md

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m pyright --pythonpath "$$($(PYTHON) -c 'import sys; print(sys.executable)')"
	$(PYTHON) -c 'from importlinter.cli import lint_imports_command as lint; lint()'

docs:
	$(PYTHON) -m sphinx -W --keep-going -b html docs docs/_build/html

bench:
	$(PYTHON) -m benchmarks

gpu:
	$(PYTHON) -m benchmarks gpu

demo:
	$(PYTHON) -m luzpy
