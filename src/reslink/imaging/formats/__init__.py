"""Readers and integrity checks for PNG, JPEG, TIFF, WebP, BMP, NIfTI and NumPy files."""
