"""What luzpy measures itself by: run `python -m benchmarks.suggest`."""
