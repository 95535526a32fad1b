"""Read the first elements of a DICOM file, without its pixels."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import BinaryIO

from pydicom import Dataset, uid
from pydicom.filereader import read_partial

from reslink.errors import InputError
from reslink.imaging.decode import HEAD_BYTES, detect_image_format
from reslink.imaging.dicom.file_format import parse_dataset, transfer_syntax
from reslink.imaging.limits import MAX_FILE_BYTES, open_regular_file, read_regular_file, silence_warnings
from reslink.remote_files import START_BYTES, local_file, read_start
from reslink.remote_paths import RemotePath, parse_remote

_META_BYTES = 1 << 16


def read_elements_until(path: Path, last: int) -> Dataset | None:
    """Returns the elements of a DICOM file up to a tag; later elements, such as the pixels, are not read.

    Args:
        path: Any file, also a remote one.
        last: The last tag to read.

    Returns:
        The elements, or None if the file is not DICOM or its header is broken.
    """
    remote = parse_remote(path)
    if remote is not None:
        return _remote_elements(remote, last)
    try:
        with os.fdopen(open_regular_file(path), "rb") as stream:
            head = stream.read(_META_BYTES)
            if detect_image_format(head[:HEAD_BYTES]) != "DICOM":
                return None
            with silence_warnings():
                return _read_elements(path, stream, head, last)
    except Exception:  # noqa: BLE001 - the libraries raise many kinds of errors for a broken file
        return None


def _remote_elements(path: RemotePath, last: int) -> Dataset | None:
    """Returns the elements of a remote file, of which no more is fetched than needed.

    Raises:
        RemoteStorageError: If the storage fails; a file that does not exist has no elements, as a local one.
    """
    try:
        start = read_start(path, START_BYTES)
        if detect_image_format(start[:HEAD_BYTES]) != "DICOM":
            return None
        if (elements := _elements_in(start, last)) is not None:
            return elements
        with local_file(path, MAX_FILE_BYTES) as local:
            return read_elements_until(local, last)
    except InputError:  # reading the file reports it
        return None


def _elements_in(start: bytes, last: int) -> Dataset | None:
    """Returns the elements up to a tag, or None if the start of the file holds no later tag, so that one may be missing."""
    if start[128:132] != b"DICM" or transfer_syntax(start) in ("", uid.DeflatedExplicitVRLittleEndian):
        return None
    passed = False

    def stop(tag: int, _vr: object, _length: object) -> bool:
        nonlocal passed
        passed = int(tag) > last
        return passed

    try:
        with silence_warnings():
            elements = read_partial(io.BytesIO(start), stop_when=stop)
    except Exception:  # noqa: BLE001 - an element that the start cuts off
        return None
    return elements if passed else None


def _read_elements(path: Path, stream: BinaryIO, head: bytes, last: int) -> Dataset:
    if head[128:132] != b"DICM" or transfer_syntax(head) in ("", uid.DeflatedExplicitVRLittleEndian):
        return parse_dataset(read_regular_file(path), "the file")  # inflates within limits
    stream.seek(0)
    return read_partial(stream, stop_when=lambda tag, _vr, _length: int(tag) > last)
