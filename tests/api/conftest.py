"""A tiny cohort and a model that the functions of the package made from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import reslink

SETTINGS = {
    "preprocess.size": 64,
    "preprocess.channels": 1,
    "model.stem_dim": 8,
    "model.dims": [8, 16],
    "model.depths": [0, 1],
    "model.area_size": 4,
    "trainer.workers": 0,
    "trainer.device": "cpu",
    "diagnostics.enabled": False,
}


@pytest.fixture(scope="session")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic heads of 14 patients, with lesion masks."""
    from reslink.datasets.phantom.cohort import PhantomSettings, make_cohort

    return make_cohort(tmp_path_factory.mktemp("heads") / "heads", PhantomSettings(patients=14, slices=2, size=128, seed=3))


@pytest.fixture(scope="session")
def settings() -> dict[str, Any]:
    """Recipe settings of a network that trains in a second."""
    return SETTINGS


@pytest.fixture(scope="session")
def trained(heads: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The result of ``reslink.train``."""
    return reslink.train(heads, tmp_path_factory.mktemp("runs") / "first", settings=SETTINGS, epochs=1, batch_size=8, seed=5)


@pytest.fixture(scope="session")
def image(heads: Path) -> Path:
    return sorted((heads / "images").rglob("*.png"))[0]
