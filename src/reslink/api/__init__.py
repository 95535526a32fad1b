"""The commands as Python functions: train, evaluate, explain, predict, audit, split, cache and runs."""
