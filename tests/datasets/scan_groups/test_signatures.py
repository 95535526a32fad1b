"""Signatures of pictures."""

from __future__ import annotations

import numpy as np
from tests.datasets.scan_groups.conftest import Scans

from reslink.datasets.near_duplicates.thumbnails import make_thumbnail
from reslink.datasets.scan_groups.signatures import NUM_NUMBERS, join_signatures, scan_signature
from reslink.imaging.image import Image


def test_planes_are_rows_of_length_one_without_mean(scans: Scans) -> None:
    signatures = scans.signatures
    assert signatures.numbers.shape == (len(scans.images), NUM_NUMBERS)
    for plane in signatures.planes:
        np.testing.assert_allclose(plane.mean(axis=1), 0, atol=1e-4)
        np.testing.assert_allclose(np.linalg.norm(plane, axis=1), 1, rtol=1e-4)


def test_a_blank_image_has_a_signature_without_warnings() -> None:
    blank = Image(np.zeros((40, 30), np.float32), "gray", white=255)
    signatures = join_signatures([scan_signature(blank)], make_thumbnail(blank)[None])
    assert all(not plane.any() for plane in signatures.planes)
    assert np.isfinite(signatures.numbers).all()


def test_a_moved_head_changes_the_position_only(scans: Scans) -> None:
    image = scans.images[0]
    moved = Image(np.roll(image.pixels, 6, axis=1), "gray", white=255)
    change = np.abs(scan_signature(moved).numbers - scan_signature(image).numbers)
    assert change[16] > 0.02  # the column of the center
    assert change[[14, 15, 17, 18]].max() < 0.01
