"""Inference: prediction with a bundle."""
