"""How fast luzpy is on an accelerator, and whether its tests pass there."""
