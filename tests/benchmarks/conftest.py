"""The benchmark scripts as modules; they import each other by name, from their own folder."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from reslink.datasets.manifest import Manifest
from reslink.training.data import TrainingData, open_training_data
from reslink.training.monitoring.progress import SilentProgress
from reslink.training.recipe.recipe import Recipe, load_recipe

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
SCRIPTS = (
    *("accuracy", "attention", "audit_cost", "budget", "budget_tables", "decision", "interval_coverage", "make_tables"),
    *(
        "near_duplicates",
        "peers",
        "random_split",
        "search",
        "series",
        "step_operators",
        "time_to_result",
        "train_step",
        "variations",
    ),
)
TINY = (
    *("preprocess.size=64", "model.stem_dim=8", "model.dims=[8, 16]", "model.depths=[0, 1]", "model.area_size=4"),
    *("data.group_by=none", "data.allow_leakage=true", "trainer.batch_size=8", "trainer.precision=fp32", "trainer.workers=0"),
)


@pytest.fixture(scope="session", autouse=True)
def scripts() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(FOLDER))
        yield
    for name in SCRIPTS:
        sys.modules.pop(name, None)


def _script(name: str) -> Any:
    """Returns the fixture of a script."""

    @pytest.fixture(scope="session", name=name)
    def script(scripts: None) -> ModuleType:
        return importlib.import_module(name)

    return script


accuracy, attention, audit_cost, budget, budget_tables, decision, interval_coverage, make_tables = map(_script, SCRIPTS[:8])
near_duplicates, peers, random_split, search = map(_script, SCRIPTS[8:12])
series, step_operators, time_to_result, train_step, variations = map(_script, SCRIPTS[12:])


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    return load_recipe(None, TINY)


@pytest.fixture(scope="session")
def training_data(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    """Noisy discs, brighter in one class; 40 images."""
    root, rng = tmp_path_factory.mktemp("discs"), np.random.default_rng(0)
    y, x = np.mgrid[:72, :72]
    for i in range(40):
        folder = root / "data" / ("Healthy", "Tumor")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        gray = (np.hypot(y - 36, x - 36) < 30) * (90 + 60 * (i % 2) + rng.normal(0, 12, (72, 72)))
        Image.fromarray(np.clip(gray, 0, 255).astype(np.uint8)).save(folder / f"{i:02d}.png")
    return open_training_data(Manifest.open(root / "data"), recipe, root / "cache", SilentProgress())
