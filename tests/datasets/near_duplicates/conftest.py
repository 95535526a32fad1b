"""Phantom slices and their copies of all kinds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

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


@pytest.fixture(scope="session")
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
