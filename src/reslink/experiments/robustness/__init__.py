"""Robustness: metrics under image corruptions."""
