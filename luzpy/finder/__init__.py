"""The learning rate finder."""
