"""Image features, compared with the geometry that the images were drawn from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileMetaDataset

from reslink.audit.features.image import THUMBNAIL, image_features, plane_of_file
from reslink.imaging.head_mask import head_mask
from reslink.imaging.image import Image

RADII = 60, 45


def ellipse(size: int = 200) -> np.ndarray:
    """Returns an axis-aligned ellipse in the middle of a square."""
    y, x = np.mgrid[:size, :size] - size / 2
    return (y / RADII[0]) ** 2 + (x / RADII[1]) ** 2 < 1


def test_the_head_is_measured(rng: np.random.Generator) -> None:
    inside = ellipse()
    pixels = np.where(inside, 120 + rng.normal(0, 30, inside.shape), 0).astype(np.float32)
    features = image_features(Image(pixels, unit="gray", white=255.0))
    assert features.head == pytest.approx((2 * RADII[0], 2 * RADII[1]), abs=4)
    assert features.head_share == pytest.approx(np.pi * RADII[0] * RADII[1] / inside.size, rel=0.05)
    assert features.roundness > 0.95
    smooth = np.where(inside, 120 + 8 * np.sin(np.arange(200) / 20), 0).astype(np.float32)
    assert features.roughness > 0.65, "noise"
    assert image_features(Image(smooth, unit="gray", white=255.0)).roughness < 0.5
    assert features.background == 1
    assert (features.air, features.brain, features.dense) == (None, None, 0)


@pytest.mark.parametrize("shear", [0, 0.4])
@pytest.mark.parametrize("shift", [(0, 0), (61, -30), (-95, 88)])
def test_roundness_is_the_overlap_with_the_ellipse_of_the_same_moments(shift: tuple[int, int], shear: float) -> None:
    """Pixel by pixel, also where the ellipse leaves the bounding box of the head or the image."""
    y, x = np.mgrid[:200, :200] - 100.0
    odd = (np.abs(y - shift[0]) < 40) & (np.abs(x - shift[1] - shear * (y - shift[0])) < 30)
    image = Image(np.where(odd, 150, 0).astype(np.float32), unit="gray", white=255.0)
    head = head_mask(image)
    rows, columns = np.nonzero(head)
    inverse = np.linalg.inv(np.cov(rows, columns) + np.eye(2) / 12)
    points = np.stack([y + 100 - rows.mean(), x + 100 - columns.mean()])
    ellipse = np.einsum("iyx,ij,jyx->yx", points, inverse, points) <= 4
    assert 0.6 < image_features(image).roundness < 0.95
    assert image_features(image).roundness == pytest.approx((head & ellipse).sum() / (head | ellipse).sum(), abs=1e-4)


def test_hounsfield_units_of_air_brain_and_bone() -> None:
    inside = ellipse()
    pixels = np.where(inside, 35.0, -1000.0).astype(np.float32)
    pixels[95:105, 95:105] = 1200
    features = image_features(Image(pixels, unit="HU", modality="CT"))
    assert (features.air, features.brain) == (-1000, 35)
    assert features.dense == pytest.approx(100 / pixels.size)
    assert (features.unit, features.modality, features.plane) == ("HU", "CT", "")


def test_the_thumbnail_is_the_head_centered_with_its_aspect() -> None:
    inside = np.roll(ellipse(), 25, axis=1)
    thumbnail = image_features(Image(np.where(inside, 200, 0).astype(np.float32), unit="gray", white=255.0)).thumbnail
    rows, columns = (np.flatnonzero((thumbnail > 60).any(axis=axis)) for axis in (1, 0))
    assert thumbnail.shape == (THUMBNAIL, THUMBNAIL)
    assert len(rows) == THUMBNAIL
    assert len(columns) == pytest.approx(THUMBNAIL * RADII[1] / RADII[0], abs=2)
    assert columns.mean() == pytest.approx((THUMBNAIL - 1) / 2, abs=1)


def test_an_empty_image_has_no_head() -> None:
    features = image_features(Image(np.zeros((64, 64), np.float32), unit="gray", white=255.0))
    assert (features.head, features.head_share, features.roundness, features.contrast) == ((0, 0), 0, 0, 0)
    assert not features.thumbnail.any()


@pytest.mark.parametrize(
    ("orientation", "plane"),
    [([1, 0, 0, 0, 1, 0], "axial"), ([1, 0, 0, 0, 0, -1], "coronal"), ([0, 1, 0, 0, 0, -1], "sagittal"), (None, "")],
)
def test_the_plane_of_a_dicom_file(orientation: list[int] | None, plane: str, tmp_path: Path) -> None:
    dataset = pydicom.Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = pydicom.uid.CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "2.25.1"
    if orientation is not None:
        dataset.ImageOrientationPatient = orientation
    dataset.save_as(tmp_path / "slice.dcm", enforce_file_format=True)
    assert plane_of_file(tmp_path / "slice.dcm") == plane
    assert plane_of_file(tmp_path / "missing.dcm") == ""
