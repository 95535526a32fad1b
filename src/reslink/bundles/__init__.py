"""Bundles: weights and all that must travel with them."""
