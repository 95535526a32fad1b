"""The first elements of a DICOM file, without its pixels."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from pydicom import Dataset, uid
from pydicom.filereader import read_partial

from reslink.imaging.decode import HEAD_BYTES, kind_of
from reslink.imaging.dicom.read import parse, transfer_syntax
from reslink.imaging.limits import open_regular, quiet, read_regular

_META_BYTES = 1 << 16


def first_elements(path: Path, last: int) -> Dataset | None:
    """Returns the elements of a DICOM file up to a tag; what follows, the pixels too, is not read.

    Args:
        path: Any file.
        last: The last tag that is wanted.

    Returns:
        The elements, or None where the file is no DICOM file or its header is broken, which the reader of images reports.
    """
    try:
        with os.fdopen(open_regular(path), "rb") as stream:
            head = stream.read(_META_BYTES)
            if kind_of(head[:HEAD_BYTES]) != "DICOM":
                return None
            with quiet():
                return _read(path, stream, head, last)
    except Exception:  # noqa: BLE001 - the libraries below raise dozens of kinds of error for a broken file
        return None


def _read(path: Path, stream: BinaryIO, head: bytes, last: int) -> Dataset:
    bare = head[128:132] != b"DICM"
    if not bare and transfer_syntax(head) in ("", uid.DeflatedExplicitVRLittleEndian):
        return parse(read_regular(path), "the file")  # inflates within limits
    stream.seek(0)
    return read_partial(stream, stop_when=lambda tag, _vr, _length: int(tag) > last, force=bare)
