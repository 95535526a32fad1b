"""Scans of phantoms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from reslink.datasets.near_duplicates.thumbnails import make_thumbnail
from reslink.datasets.phantom.cohort import render_patient
from reslink.datasets.phantom.writers import to_gray
from reslink.datasets.scan_groups.signatures import Signatures, join_signatures, scan_signature
from reslink.imaging.image import Image

PATIENTS = 12
SLICES = 4


@dataclass(frozen=True)
class Scans:
    """Pictures of phantoms, four slices each, in random order."""

    images: list[Image]
    thumbnails: NDArray[np.uint8]
    patients: NDArray[np.intp]
    signatures: Signatures


@pytest.fixture(scope="session")
def scans() -> Scans:
    images, patients = [], []
    for index in range(PATIENTS):
        sequence = ("CT", "FLAIR")[index % 2]
        patient = render_patient(5, index + 1, tumor=index % 3 == 0, sequence=sequence, slices=SLICES, size=192)
        images += [Image(to_gray(s.pixels, sequence == "CT").astype(np.float32), "gray", white=255) for s in patient.slices]
        patients += [index] * SLICES
    order = np.random.default_rng(0).permutation(len(images))
    images = [images[i] for i in order]
    thumbnails = np.stack([make_thumbnail(image) for image in images])
    signatures = join_signatures([scan_signature(image) for image in images], thumbnails)
    return Scans(images, thumbnails, np.array(patients)[order], signatures)
