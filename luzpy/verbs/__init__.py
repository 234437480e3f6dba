"""What a user does with a model: fit, evaluate, predict, plot."""
