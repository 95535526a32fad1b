"""The robustness experiment."""
