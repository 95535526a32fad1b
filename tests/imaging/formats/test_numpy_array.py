"""Arrays from NPY files: supported types and units."""

from __future__ import annotations

import builders as b
import numpy as np
import pytest

from reslink.errors import InputError
from reslink.imaging.reading import read_image

PICTURE = b.picture()
SHAPE = PICTURE.shape


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([{"a": 1}] * 400, object).reshape(20, 20), "has the type object"),
        (np.zeros((20, 20), complex), "has the type complex128"),
        (np.zeros((20, 20), bool), "has the type bool"),
        (np.zeros(400), r"shape \(400,\)"),
        (np.full((20, 20), np.nan), "not finite"),
        (np.full((20, 20), np.inf), "not finite"),
        (np.full((20, 20), 1e300), "not finite"),
        (np.zeros((20, 20), [("a", "u1")]), "Arrays are"),
    ],
)
def test_arrays_that_are_not_images_are_refused(array: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_image(b.npy(array))


def test_units_of_arrays() -> None:
    ct = np.select([PICTURE > 100, PICTURE > 85], [40, -100], -1000).astype(np.int16)  # soft tissue, fat, air
    assert read_image(b.npy(ct)).unit == "HU"
    assert read_image(b.npy(ct.astype(np.float64))).unit == "HU"
    assert read_image(b.npy(ct / 7)).unit == "MR"
    assert read_image(b.npy(PICTURE.astype(np.float32))).unit == "MR"
    assert read_image(b.npy(np.stack([PICTURE] * 3))).pixels.shape == (3, *SHAPE)
