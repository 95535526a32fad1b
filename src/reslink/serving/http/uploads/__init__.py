"""Uploaded files: multipart form, zip archives and format detection."""
