"""The file format of DICOM: any form of it is parsed like the file that pydicom wrote, within limits."""

from __future__ import annotations

import gzip
import io

import builders as b
import numpy as np
import pytest
from pydicom import dcmread, uid
from pydicom.sequence import Sequence

from reslink.errors import InputError
from reslink.imaging.dicom import file_format
from reslink.imaging.dicom.file_format import is_simple, parse_dataset, transfer_syntax, with_preamble

STORED = b.picture(48, 40).astype(np.uint16)


def written(syntax: str = uid.ExplicitVRLittleEndian) -> bytes:
    ds = b.dataset(STORED)
    ds.file_meta.TransferSyntaxUID = syntax
    if syntax == uid.ExplicitVRBigEndian:
        ds.PixelData = STORED.astype(">u2").tobytes()
    return b.written(ds)


@pytest.mark.parametrize(
    "syntax",
    [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.DeflatedExplicitVRLittleEndian],
)
def test_the_transfer_syntax_is_that_of_pydicom(syntax: str) -> None:
    data = written(syntax)
    assert transfer_syntax(data) == dcmread(io.BytesIO(data)).file_meta.TransferSyntaxUID == syntax
    assert parse_dataset(data, "x").pixel_array.tolist() == STORED.tolist()


@pytest.mark.parametrize("begin", [0, 128, 132])
@pytest.mark.parametrize("compress", [False, True])
def test_a_file_without_its_beginning_or_in_gzip_is_completed(begin: int, compress: bool) -> None:
    data = written()[begin:]
    assert with_preamble(gzip.compress(data) if compress else data, "x") == bytes(128) + written()[128:]


def test_large_and_nested_files_are_not_simple() -> None:
    assert is_simple(written())
    assert not is_simple(written(uid.DeflatedExplicitVRLittleEndian))
    nested = b.dataset(STORED, RequestAttributesSequence=Sequence([b.dataset(STORED)]))
    nested["RequestAttributesSequence"].is_undefined_length = True
    assert not is_simple(b.written(nested))
    assert not is_simple(b.written(b.dataset(STORED, ImageComments="x" * (1 << 16))))


def test_data_that_inflates_beyond_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_format, "_MAX_INFLATED", 1000)
    for data in (written(uid.DeflatedExplicitVRLittleEndian), gzip.compress(written())):
        with pytest.raises(InputError, match="x inflates to more than the limit"):
            parse_dataset(data, "x")
