"""Monitoring of a training run: progress, diagnostics, layer statistics."""
