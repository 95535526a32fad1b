"""Remarks about the images of a data set as a whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from head_files import SMALL, head, open_cache, save
from PIL import Image as Picture

from reslink.datasets.cache.notes import excluded_notes, sequence_notes
from reslink.datasets.cache.pixel_cache import PixelCache
from reslink.datasets.manifest import Manifest
from reslink.imaging.image import NOTHING_STATED, Stated
from reslink.imaging.units import NO_HU


def test_mixed_units_and_remarks_of_the_readers_are_said_once(data: Path, rng: np.random.Generator) -> None:
    hu = np.where(head(rng) == 255, 900, np.where(head(rng) > 0, 30, -1000)).astype(np.float32)
    hu[:4] = -100  # fat
    for i in range(3):
        np.save(data / "a" / f"{i}.npy", hu + 1024)
        np.save(data / "b" / f"{i}.npy", hu + rng.normal(0, 5, hu.shape))
    for folder in ("cache", "cache", "again"):  # the remarks are stored with the rows
        cache = open_cache(data, folder)
        units, remark, few = cache.notes
        assert units.startswith(
            "Units: the data set mixes 12 images in gray values, 6 images in CT in HU. CT in HU gets a fixed"
        )
        assert remark == "3 images, the first: holds HU + 1024 by its histogram; the values are converted to HU"
        assert few.startswith("3 images, the first: holds only a few different values, as masks and blank images do")
    for path in data.glob("?/??.png"):
        path.unlink()
    assert [note for note in open_cache(data).notes if note.startswith("Units")] == []


@pytest.mark.parametrize(
    ("kind", "has_few"),
    [("mask", True), ("mask.jpg", True), ("label map", True), ("blank", True), ("head", False), ("dark head", False)],
)
def test_images_that_look_like_masks_are_counted(data: Path, rng: np.random.Generator, kind: str, has_few: bool) -> None:
    gray = np.clip(head(rng) * 0.5 + rng.normal(20, 5, (80, 80)), 0, 255).astype(np.uint8)
    mask = np.zeros((80, 80), np.uint8)
    mask[30:40, 30:45], mask[32:36, 32:36] = 2, 4
    pixels = {"label map": mask, "blank": np.zeros_like(mask), "head": gray, "dark head": gray // 8}.get(kind, (mask > 0) * 255)
    for i in range(2):
        Picture.fromarray(pixels.astype(np.uint8)).save(data / "b" / f"m{i}{'.jpg' if kind == 'mask.jpg' else '.png'}")
    notes = open_cache(data).notes
    assert [note.startswith("2 images, the first: holds only a few different values") for note in notes] == [True] * has_few


def test_the_sequence_of_the_table_replaces_that_of_the_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in "abcd":
        save(head(rng), tmp_path / f"{name}.png")
    table = "path,label,sequence\na.png,x,T1w\nb.png,x,t1ce\nc.png,y,\nd.png,y,MAGiC\n"
    (tmp_path / "manifest.csv").write_text(table)
    cache = PixelCache.open(Manifest.open(tmp_path), SMALL, tmp_path / "cache", workers=0)
    assert [item.sequence for item in cache.stated] == ["T1", "T1C+", None, "MAGiC"]
    assert cache.manifest.cases[0].extra["sequence"] == "T1w"  # for subgroups
    again = Manifest.open(tmp_path, columns={"sequence": ""})
    assert [item.sequence for item in PixelCache.open(again, SMALL, tmp_path / "cache", workers=0).stated] == [None] * 4
    assert again.digest() != cache.manifest.digest()


def test_other_sequences_in_files_and_table_are_counted() -> None:
    stated = [Stated("MR", "T1"), Stated("MR", "T1"), Stated("MR", "T2"), Stated("MR")]
    assert sequence_notes(stated, ["T1C+", "T1C+", "T2", "T1"]) == [
        "2 images stated as T1C+ by the table and as T1 by the file; the table is used"
    ]


def test_files_that_a_model_refuses_are_counted_by_reason() -> None:
    localizer = Stated("CT", excluded="localizer, not a slice")
    assert excluded_notes([localizer, NOTHING_STATED, localizer, Stated(excluded=NO_HU)]) == [
        "A model refuses 2 images: localizer, not a slice",
        f"A model refuses 1 image: {NO_HU}",
    ]
