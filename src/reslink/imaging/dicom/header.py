"""Read the first elements of a DICOM file, without its pixels."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from pydicom import Dataset, uid
from pydicom.filereader import read_partial

from reslink.imaging.decode import HEAD_BYTES, detect_image_format
from reslink.imaging.dicom.file_format import parse_dataset, transfer_syntax
from reslink.imaging.limits import open_regular_file, read_regular_file, silence_warnings

_META_BYTES = 1 << 16


def read_elements_until(path: Path, last: int) -> Dataset | None:
    """Returns the elements of a DICOM file up to a tag; later elements, such as the pixels, are not read.

    Args:
        path: Any file.
        last: The last tag to read.

    Returns:
        The elements, or None if the file is not DICOM or its header is broken.
    """
    try:
        with os.fdopen(open_regular_file(path), "rb") as stream:
            head = stream.read(_META_BYTES)
            if detect_image_format(head[:HEAD_BYTES]) != "DICOM":
                return None
            with silence_warnings():
                return _read_elements(path, stream, head, last)
    except Exception:  # noqa: BLE001 - the libraries raise many kinds of errors for a broken file
        return None


def _read_elements(path: Path, stream: BinaryIO, head: bytes, last: int) -> Dataset:
    if head[128:132] != b"DICM" or transfer_syntax(head) in ("", uid.DeflatedExplicitVRLittleEndian):
        return parse_dataset(read_regular_file(path), "the file")  # inflates within limits
    stream.seek(0)
    return read_partial(stream, stop_when=lambda tag, _vr, _length: int(tag) > last)
