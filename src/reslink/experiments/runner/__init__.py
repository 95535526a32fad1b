"""Trials of an experiment: schedule, run, evaluate and compare them."""
