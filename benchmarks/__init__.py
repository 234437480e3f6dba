"""What luzpy measures itself by: see `README.md`."""
