"""Evaluation of bundles on labeled cases, calibration, comparison of models, and train/test leakage."""
