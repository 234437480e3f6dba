PYTHON ?= python

.PHONY: test lint docs bench demo

test:
	$(PYTHON) -m pytest -n 2 --cov=luzpy --cov-report=term-missing:skip-covered

lint:
	ruff check .
	ruff format --check .
	pyright

docs:
	$(PYTHON) -m sphinx -W --keep-going -b html docs docs/_build/html

bench:
	$(PYTHON) -m benchmarks

demo:
	$(PYTHON) -m luzpy
