"""What whole programs cost, each beside its plain loop."""
