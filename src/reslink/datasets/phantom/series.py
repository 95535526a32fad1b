"""Phantom patients as series: slices through the whole head, of which only some pass through the lesion."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from reslink.datasets.phantom import writers
from reslink.datasets.phantom.render import RenderedSlice
from reslink.errors import UsageError
from reslink.files import write_atomic

LOWEST, HIGHEST = -30.0, 60.0
"""Heights above the foramina of Monro in mm between which a head is drawn."""

_LARGEST_DISTANCE: Final = 6.0


def series_levels(middle: float, slices: int) -> tuple[float, ...]:
    """Returns evenly spaced heights of slices in mm, from the feet to the head; one of them passes through the lesion.

    Args:
        middle: Height of the middle of the lesion.
        slices: Number of slices.
    """
    distance = min(_LARGEST_DISTANCE, (HIGHEST - LOWEST) / max(1, slices))
    below = int((middle - LOWEST) // distance)
    above = int((HIGHEST - middle) // distance)
    first = min(max(slices // 2, slices - 1 - above), max(below, 0))
    return tuple(middle + distance * (k - first) for k in range(slices))


def series_name(patient_id: str, form: writers.FileFormat) -> str:
    """Returns the path of a series in the manifest: a volume, or a folder of DICOM files.

    Raises:
        UsageError: If the format holds single slices only.
    """
    if form == "png":
        raise UsageError(
            "The phantom's case is 'series' and its format 'png'",
            "A series is a NIfTI volume or a folder of DICOM files",
            "Add --set format=nifti or --set format=dicom",
        )
    return f"images/{patient_id}{'.nii.gz' if form == 'nifti' else ''}"


def write_series(
    target: Path, planes: list[RenderedSlice], infos: list[writers.SliceInfo], form: writers.FileFormat, sequence: str
) -> None:
    """Writes a series.

    Args:
        target: The volume, or the folder of the slices.
        planes: The slices, from the feet to the head.
        infos: Metadata of each slice.
        form: ``nifti`` or ``dicom``.
        sequence: ``CT`` or the MR contrast.
    """
    if form == "nifti":
        write_atomic(target, writers.write_nifti(np.stack([plane.pixels for plane in planes]), infos[0]))
        return
    for name, content in _dicom_files(planes, infos, sequence):
        write_atomic(target / name, content)


def _dicom_files(planes: list[RenderedSlice], infos: list[writers.SliceInfo], sequence: str) -> Iterator[tuple[str, bytes]]:
    for plane, info in zip(planes, infos, strict=True):
        yield f"{info.number:03d}.dcm", writers.write_dicom(plane.pixels, sequence == "CT", sequence, info)
