"""A data set of toy heads with patients and planted copies, and a setting that trains on it in a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from reslink.datasets.manifest import Manifest
from reslink.experiments.runner.experiment import Setting
from reslink.training.recipe.recipe import load_recipe

TINY = (
    "preprocess.size=64",
    "preprocess.channels=1",
    "model.stem_dim=8",
    "model.dims=[8, 16]",
    "model.depths=[0, 1]",
    "model.area_size=4",
    "optimizer.name=adamw",
    "trainer.batch_size=8",
    "trainer.epochs=1",
    "trainer.precision=fp32",
    "trainer.device=cpu",
    "trainer.workers=0",
)


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Weights are compared to the byte, and threads change sums."""
    torch.set_num_threads(1)


def toy_head(rng: np.random.Generator, lesion: bool, size: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """A textured ellipse, with a bright spot where wanted, and the mask of the spot."""
    y, x = np.mgrid[:size, :size] - size / 2
    inside = (y / 0.4 / size) ** 2 + (x / 0.36 / size) ** 2 < 1
    texture = ndimage.gaussian_filter(rng.normal(0, 1, (size, size)), 2.5)
    picture = inside * (110 + 30 * texture / texture.std())
    spot = (y - rng.uniform(-10, 10)) ** 2 + (x - rng.uniform(-10, 10)) ** 2 < 36
    if lesion:
        picture = np.where(spot & inside, 230, picture)
    return np.clip(picture, 0, 255).astype(np.uint8), (spot & inside & lesion).astype(np.uint8) * 255


def write_heads(folder: Path, patients: int, *, masks: bool = False, copies: bool = False) -> Path:
    """Two images a patient of two classes; with ``copies`` the second is the first again, and no patient is known."""
    rng = np.random.default_rng(0)
    rows = ["path,label,patient_id,mask"]
    (folder / "masks").mkdir()
    for i in range(2 * patients):
        label = ("Healthy", "Tumor")[i // 2 % 2]
        if not (copies and i % 2):
            picture, mask = toy_head(rng, label == "Tumor")
        Image.fromarray(picture).save(folder / f"{i:03d}.png")
        if masks and mask.any():
            Image.fromarray(mask).save(folder / "masks" / f"{i:03d}.png")
        found = f"masks/{i:03d}.png" if masks and mask.any() else ""
        rows.append(f"{i:03d}.png,{label},{'' if copies else i // 2},{found}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    return folder


class Heard:
    """A progress that keeps what it hears."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.steps = 0

    def start(self, total_steps: int, label: str) -> None:
        pass

    def step(self, n: int = 1, **values: float) -> None:  # noqa: ARG002
        self.steps += n

    def message(self, text: str) -> None:
        self.messages.append(text)

    def end(self) -> None:
        pass


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture(scope="session")
def patients(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """96 toy heads of 48 patients, with lesion masks."""
    return Manifest.open(write_heads(tmp_path_factory.mktemp("patients"), 48, masks=True))


@pytest.fixture(scope="session")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """48 toy heads, each there twice."""
    return Manifest.open(write_heads(tmp_path_factory.mktemp("copies"), 24, copies=True))


@pytest.fixture(scope="session")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of studies whose runs the tests share."""
    return tmp_path_factory.mktemp("studies")


@pytest.fixture
def setting(studies: Path, heard: Heard) -> Callable[..., Setting]:
    """Makes a setting that trains a tiny network in this process."""

    def make(manifest: Manifest, *sets: str, out: Path = studies, seeds: tuple[int, ...] = (0,), jobs: int = 0) -> Setting:
        return Setting(manifest, load_recipe(None, [*TINY, *sets]), out, seeds, jobs, heard)

    return make
