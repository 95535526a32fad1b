"""Metrics of several labels at once: which cases of a label are known, and means over the labels."""
