"""Uploaded files: form, archives and content types."""
