"""The verbs on a model: fit, evaluate, predict, plot."""
