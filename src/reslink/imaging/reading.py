"""Files to images: what a file is, is decided by its content; it is read whole or refused.

Whatever the file, :func:`read_image` returns a whole image or raises an :class:`~reslink.errors.InputError` within 5
seconds and 1 GiB. Small plain files are decoded in this process, after checks of their headers; everything else in a
child process with limits.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from reslink.errors import InputError
from reslink.imaging.decode import HEAD_BYTES, decode, kind_of, quick
from reslink.imaging.image import Image
from reslink.imaging.limits import (
    FORMATS,
    MAX_FILE_BYTES,
    QUICK_BYTES,
    ImagingWarning,
    damaged,
    open_regular,
    read_limited,
    unsupported,
)
from reslink.imaging.sandbox.pool import decode_in_child

ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".npy", ".dcm", ".nii", ".nii.gz")
"""Files with these endings are meant as images, also when their content is broken."""

_OTHERS = (".gif", ".jp2", ".heic", ".mha", ".mhd", ".nrrd")
"""Endings of images in formats that are not read: reported rather than passed over in silence."""


def read_image(source: str | Path | bytes) -> Image:
    """Reads an image, a volume or a folder that holds a DICOM series.

    Args:
        source: A file of PNG, JPEG, TIFF, WebP, BMP, NPY, DICOM or NIfTI, by content and not by name; a folder of DICOM
            files; or the bytes of a file.

    Returns:
        (H, W), or (D, H, W) for a volume: HU for CT, arbitrary intensities for MR, grey values for pictures.

    Raises:
        InputError: If it is missing, not a regular file, of another kind, not whole, or beyond the limits.
    """
    if not isinstance(source, bytes) and _is_folder(source):
        return read_series(source)
    return _read(source, None)[0]


def read_series(folder: str | Path) -> Image:
    """Reads a folder of DICOM files as a volume.

    Args:
        folder: Holds the slices of one series, in any order and under any names.

    Returns:
        (D, H, W), sorted by ImagePositionPatient along the normal of the slices (PS3.3 C.7.6.2.1.1), for axial slices
        from the feet to the head. Warns of uneven gaps.

    Raises:
        InputError: Naming the file: a localiser, another orientation, size or series, two slices in one place.
    """
    from reslink.imaging.dicom.series import read_folder

    if not _is_folder(folder):
        raise InputError(f"{folder} is not a folder", "A series is a folder of DICOM files", "Give the folder")
    try:
        return read_folder(Path(folder), lambda path: _read(path, "SLICE"))
    except OSError as error:
        raise damaged(str(folder), error.strerror or str(error)) from error


def read_series_files(files: Sequence[Path], folder: Path) -> tuple[Image, list[Path]]:
    """Reads some files of a folder as a volume, and says which slice comes from which file.

    Args:
        files: At least one DICOM file, in the order of their names.
        folder: Where they lie, for messages.

    Returns:
        The volume, as of :func:`read_series`, and the file of each of its slices.

    Raises:
        InputError: As for :func:`read_series`.
    """
    from reslink.imaging.dicom.series import read_files

    try:
        return read_files(files, folder, lambda path: _read(path, "SLICE"))
    except OSError as error:
        raise damaged(str(folder), error.strerror or str(error)) from error


def read_with_place(data: bytes) -> tuple[Image, dict[str, Any]]:
    """Reads a file from memory, as :func:`read_image` does, and says where it lies.

    Args:
        data: The whole file.

    Returns:
        The image, and for a DICOM file its facts: ``position``, ``rows``, ``columns`` (None where they are not stated),
        ``series``, ``localizer`` and ``refused``, why it counts for no series; nothing for other files.

    Raises:
        InputError: As :func:`read_image`.
    """
    return _read(data, "SLICE")


def find_images(paths: Iterable[str | Path]) -> list[Path]:
    """Lists the image files that paths stand for.

    Args:
        paths: Files, which are taken as they are; folders, which are searched with all folders in them, without hidden files
            and without what is no image by content and by ending; globs.

    Returns:
        Each file once, in the order given; in a folder sorted by name, the slices of a DICOM series by position along
        their normal, after the other images.

    Raises:
        InputError: If a path does not exist, a glob matches nothing, or a folder holds no image.
    """
    return list(dict.fromkeys(file for given in paths for file in each_image(given)))


def each_image(given: str | Path) -> Iterator[Path]:
    """Yields what :func:`find_images` lists for one path, while it searches: a folder of any size takes no more memory.

    Raises:
        InputError: As for :func:`find_images`; for a folder without images after the search.
    """
    paths = _expand(given)
    seen: set[Path] | None = set() if len(paths) > 1 else None  # a glob may match a folder and what is in it
    for path in paths:
        for file in _images_in(path) if path.is_dir() else [path]:
            if seen is None:
                yield file
            elif file not in seen:
                seen.add(file)
                yield file


def _is_folder(source: str | Path) -> bool:
    try:
        return Path(source).is_dir()
    except (OSError, ValueError):
        return False


def _read(source: str | Path | bytes, force_kind: str | None) -> tuple[Image, dict[str, Any]]:
    """Returns an image and the facts of its decoder; every error is an InputError."""
    name = "the image" if isinstance(source, bytes) else str(source)
    try:
        data, whole = (source, True) if isinstance(source, bytes) else _read_some(source)
        read_limited(data, name)
        kind = _checked_kind(data[:HEAD_BYTES], name)
        if force_kind and kind == "DICOM":
            kind = force_kind
        if whole and quick(kind, data, name):
            return decode(kind, data, name)
        return decode_in_child(kind, data if isinstance(source, bytes) else Path(source), name)
    except (InputError, ImagingWarning):
        raise
    except Exception as error:  # the libraries below raise dozens of kinds of error for a broken file
        raise damaged(name, f"its content is broken ({type(error).__name__})") from error


def _read_some(path: str | Path) -> tuple[bytes, bool]:
    """Returns a file, or of a large one that will be read by the child only the head, and whether it is all."""
    handle = open_regular(path)
    with os.fdopen(handle, "rb") as stream:
        head = stream.read(QUICK_BYTES)
        if len(head) < QUICK_BYTES:
            return head, True
        if kind_of(head[:HEAD_BYTES]) == "NPY":
            return head + stream.read(MAX_FILE_BYTES + 1 - len(head)), True
        return head[:HEAD_BYTES], False


def _checked_kind(head: bytes, name: str) -> str:
    kind = kind_of(head)
    if kind is None:
        raise unsupported(name, "is not an image that reslink knows", f"{FORMATS} are read, by content")
    return kind


def _expand(given: str | Path) -> list[Path]:
    if os.path.lexists(given):
        return [Path(given)]
    # A glob may be absolute, which Path.glob refuses.
    matches = sorted(glob.glob(str(given), recursive=True)) if glob.has_magic(str(given)) else []  # noqa: PTH207
    if not matches:
        raise InputError(
            f"{given} does not exist",
            "A path names a file, a folder or files by a glob",
            "Check the path for a typing error",
        )
    return [Path(match) for match in matches]


def _images_in(folder: Path) -> Iterator[Path]:
    from reslink.imaging.dicom.series import sorted_by_position

    empty = True
    for paths in _folders_in(folder):
        slices: list[Path] = []
        for path in paths:
            kind = _kind_in_folder(path)
            if kind == "DICOM":
                slices.append(path)
            elif kind:
                empty = False
                yield path
        empty = empty and not slices
        yield from sorted_by_position(slices)
    if empty:
        raise InputError(f"{folder} holds no image", f"{FORMATS} are read, by content", "Give a folder with images in it")


MASK_FOLDERS = ("mask", "masks", "__macosx")
"""Names of folders that hold no images of their own; one that is named itself is searched."""


def _folders_in(folder: Path) -> Iterator[Iterator[Path]]:
    """Yields the files of a folder and of each folder below, by name, without what is hidden and without folders of masks."""
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name.casefold() not in MASK_FOLDERS)
        shown = sorted(name for name in files if not name.startswith(".") and name.upper() != "DICOMDIR")
        yield map(Path(root).joinpath, shown)


def _kind_in_folder(path: Path) -> str | None:
    from reslink.imaging.dicom.series import head_of

    kind = kind_of(head_of(path))
    if kind is None and path.name.lower().endswith((*ENDINGS, *_OTHERS)):
        return "broken"
    return kind
