"""Inference: a bundle loaded once, many images."""
