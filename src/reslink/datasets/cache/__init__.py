"""The pixel cache: every image is decoded once."""
