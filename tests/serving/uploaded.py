"""Test images in several formats, each seed with its own content."""

from __future__ import annotations

import io
import zipfile

import builders
import nibabel
import numpy as np
from PIL import Image as Picture
from pydicom.uid import CTImageStorage


def head(seed: int, size: int = 96) -> np.ndarray:
    """An image of a disc with random structure."""
    y, x = np.mgrid[:size, :size]
    rng = np.random.default_rng(seed)
    disc = np.hypot(y - size / 2, x - size / 2) < size * 0.4
    return (disc * (60 + 12 * (seed % 12) + np.kron(rng.integers(0, 50, (size // 8, size // 8)), np.ones((8, 8))))).astype(
        np.uint8
    )


def png(seed: int, size: int = 96, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Picture.fromarray(head(seed, size)).save(buffer, kind)
    return buffer.getvalue()


def dicom(seed: int, position: float = 0.0, columns: int | None = None, **attributes: object) -> bytes:
    pixels = head(seed).astype(np.int16)[:, :columns] - 20  # HU
    place = {
        "SOPClassUID": CTImageStorage,
        "Modality": "CT",
        "RescaleSlope": 1,
        "RescaleIntercept": 0,
        "ImagePositionPatient": [0.0, 0.0, position],
        "ImageOrientationPatient": [1.0, 0, 0, 0, 1, 0],
        "SeriesInstanceUID": "1.2.3",
        "PixelSpacing": [1.0, 1.0],
    }
    return builders.written(builders.dataset(pixels, **{**place, **attributes}))


def nifti(depth: int = 3) -> bytes:
    volume = np.stack([head(i).astype(np.float32) for i in range(depth)], axis=-1)
    return nibabel.Nifti1Image(volume, np.eye(4)).to_bytes()


def archive(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return buffer.getvalue()
