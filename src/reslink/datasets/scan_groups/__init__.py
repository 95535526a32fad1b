"""Scan groups: images that probably come from one scan of one patient, recognized by the picture alone."""
