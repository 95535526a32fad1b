"""Polyglot files, and files that only look like one."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image as Picture
from uploaded import archive, head, png

from reslink.serving.http.problems import Problem
from reslink.serving.http.uploads.content_type import detect_format


@pytest.mark.parametrize("mark", [b"PK\x05\x06", b"PK\x05\x06" + bytes(range(1, 19)), b"PK\x01\x02"])
def test_an_archive_signature_among_the_pixels_is_accepted(mark: bytes) -> None:
    pixels = head(1)
    pixels[40, 20 : 20 + len(mark)] = np.frombuffer(mark, np.uint8)
    stream = io.BytesIO()
    Picture.fromarray(pixels).save(stream, "BMP")
    assert mark in stream.getvalue()
    assert detect_format(stream.getvalue(), "") == "BMP"


@pytest.mark.parametrize("files", [{}, {"a.png": png(2)}, {"a.txt": b"", "b.txt": b""}], ids=["empty", "one", "two"])
@pytest.mark.parametrize("after", [b"", b"comment" * 100, b"PK\x05\x06" + b"\xff" * 18], ids=["bare", "comment", "decoy"])
def test_an_image_with_an_archive_is_refused(files: dict[str, bytes], after: bytes) -> None:
    with pytest.raises(Problem, match="format is not supported") as caught:
        detect_format(png(1) + archive(files) + after, "")
    assert "PNG and something else too" in caught.value.detail
