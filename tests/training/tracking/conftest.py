"""What a run leaves, small and without a network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

ESTIMATE = {"estimate": 0.9, "ci_low": 0.8, "ci_high": 0.95, "method": "bootstrap", "n": 40}


@pytest.fixture(scope="session", autouse=True)
def accelerate_state() -> None:
    """A run has an accelerator before its trackers start."""
    from accelerate import Accelerator

    Accelerator(cpu=True)


@pytest.fixture
def evaluation() -> dict[str, Any]:
    """The parts of ``evaluation.json`` that are recorded."""
    undefined = {"estimate": None, "ci_low": None, "ci_high": None, "method": "undefined: no case", "n": 0}
    leakage = {"status": "none found", "message": "No case is a near duplicate of a training image"}
    return {"n": 40, "metrics": {"auroc": ESTIMATE, "ppv": undefined}, "leakage": leakage}


@pytest.fixture
def figures(tmp_path: Path) -> Path:
    """The attention gallery of a run: one picture of 4 x 6 pixels."""
    folder = tmp_path / "figures"
    folder.mkdir()
    Image.fromarray(np.full((4, 6, 3), 200, np.uint8)).save(folder / "gallery_01.png")
    case = {"file": "gallery_01.png", "label": "Tumor", "predicted": "Healthy", "probability": 0.9123}
    (folder / "gallery.json").write_text(json.dumps([case]))
    return folder


@pytest.fixture(scope="session")
def epoch_row() -> Callable[[int], dict[str, Any]]:
    return lambda epoch: {"epoch": epoch, "val_auroc": 0.5 + epoch / 10, "lr": 1e-3, "val_loss": None}
