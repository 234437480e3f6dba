"""Which rule suggests the best learning rate."""
