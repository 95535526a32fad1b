"""reslink: train, judge, explain and run brain CT and MR tumour classifiers. Research use only."""

from __future__ import annotations

__version__ = "0.1.0"
