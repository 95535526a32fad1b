"""The commands as Python functions: train, evaluate, explain, predict, audit and split."""
