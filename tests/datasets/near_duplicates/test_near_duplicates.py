"""Copies of all kinds are found among phantoms, and other slices and other patients are left apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from reslink.datasets.near_duplicates import fingerprints, groups
from reslink.datasets.near_duplicates.thumbnails import make_thumbnail
from reslink.datasets.phantom.cohort import render_patient
from reslink.datasets.phantom.duplicates import DUPLICATE_KINDS, GrayImage
from reslink.datasets.phantom.writers import to_gray
from reslink.imaging.image import Image

SEQUENCES = ("CT", "T1", "CT", "FLAIR", "CT", "T2")


@dataclass(frozen=True)
class Planted:
    """Thumbnails of slices, two a patient, and of their copies; ``source`` is the row of the slice that a copy shows."""

    thumbnails: GrayImage
    source: NDArray[np.intp]
    slices: int

    @property
    def copies(self) -> NDArray[np.intp]:
        return np.arange(self.slices, len(self.source))


def thumbnail(pixels: GrayImage) -> GrayImage:
    return make_thumbnail(Image(pixels.astype(np.float32), "gray", white=255))


@pytest.fixture(scope="module")
def planted() -> Planted:
    rng, pictures = np.random.default_rng(7), []
    for index in range(18):
        sequence = SEQUENCES[index % len(SEQUENCES)]
        patient = render_patient(11, index + 1, tumor=bool(index % 2), sequence=sequence, slices=2, size=192)
        pictures += [to_gray(plane.pixels, sequence == "CT") for plane in patient.slices]
    source = list(range(len(pictures)))
    for change in DUPLICATE_KINDS.values():
        for row in rng.permutation(36)[:16].tolist():
            source.append(row)
            pictures.append(change(pictures[row], rng))
    return Planted(np.stack([thumbnail(pixels) for pixels in pictures]), np.array(source), 36)


def test_duplicates_of_all_kinds_are_found_and_nothing_else(planted: Planted) -> None:
    found = {(pair.first, pair.second) for pair in groups.find_duplicates(planted.thumbnails)}
    hits = [(int(planted.source[copy]), int(copy)) in found for copy in planted.copies]
    true = [planted.source[first] == planted.source[second] for first, second in found]
    assert np.mean(hits) >= 0.98
    assert np.mean(true) >= 0.98


def test_duplicate_groups_are_those_of_the_slices(planted: Planted) -> None:
    numbers = np.array(groups.duplicate_groups(planted.thumbnails))
    assert np.mean(numbers[planted.copies] == numbers[planted.source[planted.copies]]) >= 0.98
    assert len(set(numbers[: planted.slices].tolist())) == planted.slices  # neighboring slices are not merged


def test_fingerprints_recognize_duplicates_of_all_kinds(planted: Planted) -> None:
    """A crop into the head loses part of what 1,024 bits tell; all other copies are as sure as with the image itself."""
    kept, new = planted.thumbnails[: planted.slices], planted.thumbnails[planted.copies]
    found = fingerprints.match_fingerprints(fingerprints.make_fingerprints(kept), new)
    right = [planted.source[planted.copies[query]] == row for query, row, _ in found]
    known = {query for (query, _, _), true in zip(found, right, strict=True) if true}
    cut = np.repeat(["head crop" in kind or "into the head" in kind for kind in DUPLICATE_KINDS], 16)
    hit = np.isin(np.arange(len(new)), sorted(known))
    assert hit[~cut].mean() >= 0.96
    assert hit[cut].mean() >= 0.8
    assert np.mean(right) >= 0.95


def test_the_orientation_maps_the_second_image_to_the_first(planted: Planted) -> None:
    slices = planted.thumbnails[:6]
    turned = np.stack([np.rot90(slices[row, :, ::-1], row) for row in range(6)])
    for pair in groups.find_duplicates(np.concatenate([slices, turned])):
        second = np.rot90(turned[pair.second - 6], pair.orientation % 4)
        second = second[:, ::-1] if pair.orientation >= 4 else second
        assert np.array_equal(second, slices[pair.first])


def test_a_fingerprint_reveals_little_of_the_image(planted: Planted) -> None:
    """Turned back it gives 32×32 noisy contrasts, no more than 64 % of whose power is the image's."""
    from reslink.datasets.near_duplicates.features import downsample, structure_contrast, unit_rows
    from reslink.datasets.near_duplicates.hamming_index import binary_codes, rotation

    rows = unit_rows(downsample(structure_contrast(planted.thumbnails[: planted.slices])))
    signs = np.unpackbits(binary_codes(rows), axis=1) * 2.0 - 1
    back = signs @ rotation() / 32
    assert 0.75 < np.mean((rows * back).sum(axis=1)) < 0.82
