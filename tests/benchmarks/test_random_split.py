"""The split of the notebook: the smaller class is drawn again before the images are divided at random."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from reslink.datasets.manifest import Manifest

FRACTIONS = (0.75, 0.1, 0.15)


@pytest.fixture
def unequal(tmp_path: Path) -> Path:
    """40 images of one class and 10 of the other, with a stated split that must not count."""
    rng, rows = np.random.default_rng(0), ["path,label,split"]
    for i in range(50):
        label = "Healthy" if i < 40 else "Tumor"
        path = tmp_path / "data" / label / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (16, 16), np.uint8)).save(path)
        rows.append(f"{label}/{path.name},{label},train")
    table = tmp_path / "data" / "manifest.csv"
    table.write_text("\n".join(rows) + "\n")
    return table.parent


def test_the_smaller_class_is_drawn_again(random_split: ModuleType, unequal: Path, tmp_path: Path) -> None:
    manifest = Manifest.open(random_split.write_random_split(unequal, tmp_path / "out", 0, FRACTIONS))
    assert Counter(case.label for case in manifest.cases) == {"Healthy": 40, "Tumor": 40}
    drawn = [case for case in manifest.cases if not case.path.is_relative_to(unequal)]
    assert len(drawn) == 30
    assert all(case.path.read_bytes() == (unequal / case.extra["original"]).read_bytes() for case in manifest.cases)
    assert all(case.extra["original"].startswith("Tumor/") for case in drawn)


def test_the_split_is_drawn_by_image_and_leaks(random_split: ModuleType, unequal: Path, tmp_path: Path) -> None:
    manifest = Manifest.open(random_split.write_random_split(unequal, tmp_path / "out", 0, FRACTIONS))
    shares = Counter((case.label, case.split) for case in manifest.cases)
    assert {key: shares[key] for key in shares if key[0] == "Tumor"} == {
        ("Tumor", "train"): 30,
        ("Tumor", "validation"): 4,
        ("Tumor", "test"): 6,
    }
    images = {split: [case.extra["original"] for case in manifest.cases if case.split == split] for split in ("train", "test")}
    copied = [image for image in images["test"] if image in images["train"]]
    assert random_split.count_copied(manifest) == len(copied) > 0


def test_the_seed_decides(random_split: ModuleType, unequal: Path, tmp_path: Path) -> None:
    def rows(folder: str, seed: int) -> list[tuple[str, str | None]]:
        manifest = Manifest.open(random_split.write_random_split(unequal, tmp_path / folder, seed, FRACTIONS))
        return sorted((case.path.name, case.split) for case in manifest.cases)

    assert rows("a", 1) == rows("b", 1)
    assert rows("a", 1) != rows("c", 2)
