"""Fixtures that every test may use."""

from __future__ import annotations

import os
import signal
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is loaded: weights are compared to the byte, and threads change sums

import numpy as np
import pytest

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts a job in the background ignores it


@pytest.fixture
def shared_data() -> Path:
    """The development images beside the checkout; the test is skipped where they are missing."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not (folder / "ct" / "manifest.csv").exists():
        pytest.skip("the development images are not here (../shared/data)")
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with a fixed seed."""
    return np.random.default_rng(0)
