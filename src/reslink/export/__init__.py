"""Exports of a bundle to other formats, each checked for parity with the bundle."""
