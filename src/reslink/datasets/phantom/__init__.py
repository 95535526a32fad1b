"""Synthetic heads with and without lesions."""
