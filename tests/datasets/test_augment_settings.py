"""The settings of the augmentation are checked."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from reslink.datasets.augment_settings import AugmentSettings


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("flip", 1.1),
        ("rotation", -1.0),
        ("rotation", float("nan")),
        ("scale", 0.6),
        ("translation", 0.7),
        ("contrast", 1.0),
        ("noise", "0.1"),
        ("enabled", 1),
        ("rotate", 10.0),
    ],
)
def test_settings_are_strict(key: str, value: object) -> None:
    with pytest.raises(ValidationError, match=key):
        AugmentSettings.model_validate({key: value})
