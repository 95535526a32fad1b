"""Architectures are checked, and named variants are found."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from reslink.errors import UsageError
from reslink.networks.config import ResLinkConfig, variant_config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dims": (32, 64)}, "dims has 2 stages but depths has 3"),
        ({"depths": (0, 1, 1), "stem_dim": 16}, r"dims\[0\] must equal stem_dim"),
        ({"dims": (2, 64, 128)}, "each width must be between 4 and 2048"),
        ({"depths": (1, -1, 1)}, "each depth must be between 0 and 64"),
        ({"attention": "middle"}, "attention"),
        ({"drop_rate": 1.0}, "drop_rate"),
        ({"residuals": True}, "residuals"),
    ],
)
def test_an_invalid_config_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        variant_config("reslink_paper", **changes)


def test_unknown_variant_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no network variant 'reslink_papers'.*Did you mean 'reslink_paper'"):
        variant_config("reslink_papers")


def test_config_survives_json() -> None:
    config = variant_config("reslink_small", num_classes=1)
    assert ResLinkConfig.model_validate_json(config.model_dump_json()) == config
