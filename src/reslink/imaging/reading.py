"""Read images, volumes and DICOM series from files. The format is detected from the content, not from the name.

:func:`read_image` returns a complete image or raises an :class:`~reslink.errors.InputError`, within limits on time and memory
(see :mod:`reslink.imaging.sandbox`). Small, simple files are decoded in this process after checks of their headers; all
others are decoded in a child process with limits.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reslink.errors import InputError, ReslinkError
from reslink.imaging.decode import HEAD_BYTES, decode, decodes_in_process, detect_image_format, unsupported_format
from reslink.imaging.image import Image, Unit
from reslink.imaging.limits import (
    FORMATS,
    MAX_FILE_BYTES,
    MAX_IN_PROCESS_BYTES,
    ImagingWarning,
    check_data_size,
    damaged_error,
    open_regular_file,
    unsupported_error,
)
from reslink.imaging.sandbox.pool import decode_in_sandbox
from reslink.imaging.spellings import parse_unit
from reslink.remote_files import local_file
from reslink.remote_paths import parse_remote

_TABLE_ENDINGS = (".csv", ".tsv", ".xlsx", ".parquet")

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".webp", ".bmp", ".npy"),
    *(".dcm", ".dcm.gz", ".ima", ".nii", ".nii.gz"),
)
"""Files with these suffixes are treated as images even if their content is broken."""

_UNSUPPORTED_SUFFIXES = (
    *(".gif", ".jp2", ".j2k", ".jpx", ".jpf", ".jls", ".jxl", ".heic", ".heif", ".avif", ".pgm", ".ppm", ".pbm", ".svs"),
    *(".mha", ".mhd", ".nrrd", ".nhdr", ".mgh", ".mgz", ".mnc", ".img", ".hdr", ".img.gz", ".hdr.gz"),
)
"""Suffixes of unsupported image formats. These files are reported instead of being skipped silently."""


def is_image_name(name: str) -> bool:
    """Returns whether a file name has the suffix of an image format, supported or not."""
    return name.lower().endswith((*SUFFIXES, *_UNSUPPORTED_SUFFIXES))


def read_image(source: str | Path | bytes, unit: str | None = None) -> Image:
    """Reads an image, a volume or a folder with a DICOM series.

    Args:
        source: A PNG, JPEG, TIFF, WebP, BMP, NPY, DICOM or NIfTI file, also one at ``s3://``, ``gs://``, ``az://`` or
            ``https://``; a folder of DICOM files; or the bytes of a file.
        unit: ``hu``, ``mr`` or ``gray``, for files that state no unit, such as NIfTI and NPY; None decides by the histogram.

    Returns:
        (H, W), or (D, H, W) for a volume: HU for CT, arbitrary intensities for MR, gray values for pictures.

    Raises:
        InputError: If the file is missing, not a regular file, of an unsupported format, incomplete, or beyond the limits.
    """
    if not isinstance(source, bytes) and _is_folder(source):
        return read_series(source)
    return _read(source, None, parse_unit(unit))[0]


def read_series(folder: str | Path) -> Image:
    """Reads a folder of DICOM files as a volume.

    Args:
        folder: A folder with the slices of one series, in any order and with any names.

    Returns:
        (D, H, W), sorted by ImagePositionPatient along the normal of the slices (PS3.3 C.7.6.2.1.1), for axial slices
        from the feet to the head. Uneven gaps between slices cause a warning.

    Raises:
        InputError: If a file is a localizer, has a different orientation, size or series, or if two slices have the same
            position. The message names the file.
    """
    from reslink.imaging.dicom.series import read_folder

    if not _is_folder(folder):
        raise InputError(f"{folder} is not a folder", "A series is a folder of DICOM files", "Use the folder of the series")
    try:
        return read_folder(Path(folder), lambda path: _read(path, "SLICE"))
    except OSError as error:
        raise damaged_error(str(folder), error.strerror or str(error)) from error


def read_series_files(files: Sequence[Path], folder: Path) -> tuple[Image, list[Path]]:
    """Reads some files of a folder as a volume, and returns the file of each slice.

    Args:
        files: At least one DICOM file, in the order of their names.
        folder: Their folder, for messages.

    Returns:
        The volume, as from :func:`read_series`, and the file of each slice.

    Raises:
        InputError: As for :func:`read_series`.
    """
    from reslink.imaging.dicom.series import read_slices

    try:
        return read_slices(files, folder, lambda path: _read(path, "SLICE"))
    except OSError as error:
        raise damaged_error(str(folder), error.strerror or str(error)) from error


def read_with_geometry(source: str | Path | bytes, unit: str | None = None) -> tuple[Image, dict[str, Any]]:
    """Reads a file like :func:`read_image`, and returns its geometry.

    Args:
        source: The file, or all its bytes.
        unit: As for :func:`read_image`.

    Returns:
        The image, and for a DICOM file its geometry: ``position``, ``rows``, ``columns`` (None if not stated), ``series``,
        ``owner`` (study and patient), ``localizer`` and ``excluded``, the reason why it is not part of a series that can be
        classified. Empty for other files.

    Raises:
        InputError: As for :func:`read_image`.
    """
    return _read(source, "SLICE", parse_unit(unit))


def _is_folder(source: str | Path) -> bool:
    try:
        return Path(source).is_dir()
    except (OSError, ValueError):
        return False


def _read(source: str | Path | bytes, dicom_format: str | None, unit: Unit | None = None) -> tuple[Image, dict[str, Any]]:
    """Returns an image and its geometry; every error is an InputError. ``dicom_format`` replaces the format DICOM."""
    name = "the image" if isinstance(source, bytes) else str(parse_remote(source) or source)
    try:
        with local_file(source, MAX_FILE_BYTES) as local:
            return _read_local(local, name, dicom_format, unit)
    except (ReslinkError, ImagingWarning):
        raise
    except Exception as error:  # the libraries raise many kinds of errors for a broken file
        raise damaged_error(name, f"its content is broken ({type(error).__name__})") from error


def _read_local(
    source: str | Path | bytes, name: str, dicom_format: str | None, unit: Unit | None
) -> tuple[Image, dict[str, Any]]:
    data, complete = (source, True) if isinstance(source, bytes) else _read_start(source, name)
    check_data_size(data, name)
    file_format = _check_format(data[:HEAD_BYTES], name)
    if dicom_format and file_format == "DICOM":
        file_format = dicom_format
    if complete and decodes_in_process(file_format, data, name):
        return decode(file_format, data, name, unit)
    return decode_in_sandbox(file_format, data if isinstance(source, bytes) else Path(source), name, unit)


def _read_start(path: str | Path, name: str) -> tuple[bytes, bool]:
    """Returns the content of a file and True; for a large file that the child will read, only its start and False."""
    handle = open_regular_file(path, name)
    with os.fdopen(handle, "rb") as stream:
        head = stream.read(MAX_IN_PROCESS_BYTES)
        if len(head) < MAX_IN_PROCESS_BYTES:
            return head, True
        if detect_image_format(head[:HEAD_BYTES]) == "NPY":
            return head + stream.read(MAX_FILE_BYTES + 1 - len(head)), True
        return head[:HEAD_BYTES], False


def _check_format(head: bytes, name: str) -> str:
    file_format = detect_image_format(head)
    if file_format is None and name.lower().endswith(_TABLE_ENDINGS):
        raise InputError(
            f"{name} is a table, not an image",
            f"The supported formats are {FORMATS}",
            "Name the images; tables of images are for reslink evaluate, external and explain",
        )
    if file_format is None:
        known = unsupported_format(head)
        problem = f"is a file in the format {known}" if known else "is not an image in a supported format"
        raise unsupported_error(name, problem, f"The supported formats are {FORMATS}")
    return file_format
