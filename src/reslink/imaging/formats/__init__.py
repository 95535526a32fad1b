"""Readers and integrity checks of PNG, JPEG, TIFF, NIfTI and NumPy files."""
