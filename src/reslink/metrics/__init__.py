"""Metrics: arrays to numbers, no files, no torch."""
