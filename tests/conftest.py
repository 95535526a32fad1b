"""Fixtures that every test may use."""

from __future__ import annotations

import csv
import importlib.util
import os
import signal
import sys
from pathlib import Path
from types import ModuleType

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is loaded: weights are compared to the byte, and threads change sums

import numpy as np
import pytest
import yaml

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


@pytest.fixture(scope="session")
def make_bundles() -> ModuleType:
    """The script that builds the bundles that ship."""
    path = Path(__file__).resolve().parents[1] / "benchmarks" / "make_bundles.py"
    spec = importlib.util.spec_from_file_location("make_bundles", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # pydantic looks its annotations up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def ring_heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of ninety pictures of heads, a patient each, with a bright spot in those called Tumor."""
    from PIL import Image

    root, rng = tmp_path_factory.mktemp("ring_heads"), np.random.default_rng(5)
    y, x = np.mgrid[:96, :96]
    rows = []
    for i in range(90):
        r = np.hypot(y - 48 + rng.normal(), (x - 48) * rng.uniform(1.0, 1.2))
        grey = (r < 40) * (90 + np.kron(rng.integers(0, 60, (12, 12)), np.ones((8, 8)))) + (abs(r - 42) < 3) * 250
        grey += (np.hypot(y - rng.integers(35, 60), x - rng.integers(35, 60)) < rng.uniform(3, 9)) * 70 * (i % 2)
        Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).save(root / f"{i:02d}.png")
        rows.append([f"{i:02d}.png", ("Healthy", "Tumor")[i % 2], f"p{i}", "validation" if i < 60 else "test"])
    with (root / "manifest.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["path", "label", "patient_id", "split"], *rows])
    return root


@pytest.fixture(scope="session")
def finished_run(ring_heads: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a finished run leaves, with random weights: a bundle, and a split in which no picture was learned from."""
    from reslink.bundles.bundle import Bundle
    from reslink.bundles.fingerprints import TrainingImages
    from reslink.imaging.preprocess import Preprocess
    from reslink.labels import Labels
    from reslink.networks.reslink import ResLinkConfig, build
    from reslink.training.recipe.recipe import load_recipe

    run = tmp_path_factory.mktemp("finished") / "run"
    config = ResLinkConfig(stem_dim=8, dims=(8, 16), depths=(1, 1), in_channels=1)
    state = build(config, seed=1).state_dict()
    state["head.1.weight"] *= 30
    Bundle(
        {"name": "tiny", **config.model_dump(mode="json")},
        Preprocess(size=64, channels=1),
        Labels(("Healthy", "Tumor")),
        provenance={"data": {"digest": "ab" * 32}, "recipe": load_recipe(None, ["seed=3"]).published(), "seed": 3},
        training_images=TrainingImages(np.zeros((0, 128), np.uint8), np.zeros((0, 32), np.uint8)),
    ).save(run / "bundle", state)
    with (ring_heads / "manifest.csv").open(newline="") as stream:
        rows = [[row["path"], row["label"], row["split"], row["patient_id"]] for row in csv.DictReader(stream)]
    with (run / "splits.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["sample_id", "label", "split", "group"], *rows])
    return run


@pytest.fixture(scope="session")
def ship_texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts of two bundles, as ``benchmarks/shipped.yaml`` has them."""
    entry = {
        "title": "Rings",
        "about": "Its heads are drawn.",
        "tells_apart": "heads with a spot from heads without",
        "modality": "drawings",
        "source": "ct_mri_kaggle",
        "licence": "CC BY-NC-SA 4.0; research use only",
        "limits": ["It was never trained."],
        "calibrate": {"operating_point": "youden"},
        "reproduce": ["OMP_NUM_THREADS=1 reslink train DATA --out RUN --seed 3"],
    }
    path = tmp_path_factory.mktemp("texts") / "shipped.yaml"
    path.write_text(yaml.safe_dump({"ct": entry, "lgg": entry}))
    return path


@pytest.fixture(scope="session")
def built_zoo(
    make_bundles: ModuleType, finished_run: Path, ring_heads: Path, ship_texts: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder of shipped bundles with one, called ct, that was built as the real ones are."""
    into = tmp_path_factory.mktemp("zoo") / "shipped"
    make_bundles.build("ct", finished_run, into, ship_texts, data=ring_heads)
    return into


@pytest.fixture
def zoo_with_ct(built_zoo: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As ``built_zoo``, and it is the one of this installation."""
    from reslink.bundles import zoo

    monkeypatch.setattr(zoo, "SHIPPED", built_zoo)
    return built_zoo
