"""Experiments: train or evaluate networks under several conditions and report the differences."""
