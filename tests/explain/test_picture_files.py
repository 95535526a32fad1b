"""File names of pictures."""

from __future__ import annotations

from pathlib import Path

import pytest

from reslink.explain.picture_files import picture_stem


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("頭部.png", "image"),
        ("1.2.840.113619.2.55", "1.2.840.113619.2.55"),
        ("1.2.840.55.dcm", "1.2.840.55"),
        ("a.nii.gz", "a"),
        ("A.NII.GZ", "A"),
        ("T1.axial", "T1.axial"),
        ("..$x {1}.png", "x_1"),
        ("n" * 245 + ".jpg", "n" * 80),
    ],
)
def test_the_name_of_a_picture_is_that_of_its_image(name, stem):
    assert picture_stem(Path(name)) == stem
