"""A data set of toy heads and a recipe that trains on it in a second or two."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reslink.datasets.manifest import Manifest
from reslink.training.recipe.recipe import Recipe, load_recipe

TINY = (
    "preprocess.size=64",
    "preprocess.channels=1",
    "model.stem_dim=8",
    "model.dims=[8, 16]",
    "model.depths=[0, 1]",
    "model.area_size=4",
    "data.group_by=none",
    "data.allow_leakage=true",
    "optimizer.name=adamw",
    "optimizer.lr=0.002",
    "optimizer.weight_decay=0.05",
    "optimizer.schedule=onecycle",
    "optimizer.warmup=0.2",
    "optimizer.clip_norm=5",
    "loss.label_smoothing=0.05",
    "loss.mixup=0",
    "trainer.ema=0",
    "trainer.batch_size=8",
    "trainer.epochs=2",
    "trainer.precision=fp32",
    "trainer.device=cpu",
    "trainer.workers=0",
)


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Tiny tensors are slower on several threads, above all while other work runs beside them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def no_waiting_for_disks() -> Iterator[None]:
    """What a killed process wrote stays without fsync; only a power cut, which no test here makes, would lose it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda _handle: None)
        yield


def head(rng: np.random.Generator, lesion: bool, size: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """A noisy ellipse, with a bright spot in it where wanted, and the mask of the spot."""
    y, x = np.mgrid[:size, :size]
    cy, cx = size / 2 + rng.uniform(-3, 3, 2)
    a, b = rng.uniform(0.34, 0.42, 2) * size
    inside = ((y - cy) / a) ** 2 + ((x - cx) / b) ** 2 < 1
    picture = inside * (100 + rng.normal(0, 12, (size, size)))
    angle, away = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.18) * size
    distance = (y - cy - away * np.sin(angle)) ** 2 + (x - cx - away * np.cos(angle)) ** 2
    if lesion:
        picture += inside * 100 * np.exp(-distance / (2 * (0.08 * size) ** 2))
    mask = (distance < (0.1 * size) ** 2) & inside & lesion
    return np.clip(picture, 0, 255).astype(np.uint8), mask.astype(np.uint8) * 255


def write_heads(folder: Path, each: int, *, masks: bool = False, seed: int = 0) -> Path:
    """Writes toy heads of two classes, as class folders or, with masks, with a manifest.csv."""
    rng = np.random.default_rng(seed)
    rows = ["path,label,patient_id,mask"]
    for label in ("Healthy", "Tumor"):
        (folder / label).mkdir(parents=True)
        (folder / "masks").mkdir(exist_ok=True)
        for i in range(each):
            picture, mask = head(rng, label == "Tumor")
            Image.fromarray(picture).save(folder / label / f"{i:03d}.png")
            has_mask = masks and label == "Tumor"
            if has_mask:
                Image.fromarray(mask).save(folder / "masks" / f"{i:03d}.png")
            rows.append(f"{label}/{i:03d}.png,{label},{label}{i // 2},{f'masks/{i:03d}.png' if has_mask else ''}")
    if masks:
        (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """48 toy heads in two class folders."""
    return Manifest.open(write_heads(tmp_path_factory.mktemp("toy"), 24))


@pytest.fixture(scope="session")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """48 toy heads of 24 patients with lesion masks."""
    return Manifest.open(write_heads(tmp_path_factory.mktemp("marked"), 24, masks=True))


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The decoded images of all runs."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def recipe() -> Callable[..., Recipe]:
    """Makes a recipe of a tiny network with some settings changed."""

    def make(*sets: str) -> Recipe:
        return load_recipe(None, [*TINY, *sets])

    return make


class Listener:
    """A progress that keeps what it hears."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.labels: list[str] = []
        self.steps = 0
        self.open = 0

    def start(self, total_steps: int, label: str, noun: str = "step") -> None:  # noqa: ARG002
        self.labels.append(label)
        self.open += 1

    def step(self, n: int = 1, **values: float) -> None:  # noqa: ARG002
        self.steps += n

    def message(self, text: str) -> None:
        self.messages.append(text)

    def end(self) -> None:
        self.open -= 1


@pytest.fixture
def listener() -> Listener:
    """Keeps what a run says."""
    return Listener()
