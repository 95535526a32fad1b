"""Bundles in other people's formats, each proved to give the same answers."""
