"""Limits on the size of images."""

from __future__ import annotations

import builders as b
import pytest
from PIL import Image as Pillow

from reslink.errors import InputError
from reslink.imaging.reading import read_image


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((8, 8), "at least 16 pixels on each side"),
        ((16, 1024), "an aspect ratio of 32"),
        ((20_000, 1_000), "16384 pixels on a side"),
    ],
)
def test_sizes_out_of_limits_are_refused(size: tuple[int, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_image(b.saved(Pillow.new("1", size), "PNG"))
