"""Evaluation: a bundle judged on a data set."""
