"""Settings of networks that are not a ResLink."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from reslink.networks.config import variant_config
from reslink.networks.external_config import EXTERNAL_VARIANTS, ExternalConfig, external_source, has_attention

SIZES = {"in_channels": 1, "num_classes": 2, "size": 64}


@pytest.mark.parametrize("name", EXTERNAL_VARIANTS)
def test_the_ends_of_every_range_are_allowed_and_nothing_beyond(name: str) -> None:
    for option, ends in EXTERNAL_VARIANTS[name].items():
        for value in ends:
            assert ExternalConfig(name=name, source=external_source(name), options={option: value}, **SIZES)
        for value in (ends[0] - 1, ends[1] + 1, "7", None, [7]):
            with pytest.raises(ValidationError, match=f"{option} of {name} is"):
                ExternalConfig(name=name, source=external_source(name), options={option: value}, **SIZES)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "densnet121", "source": "monai"}, "there is no variant densnet121; Did you mean 'densenet121'"),
        ({"name": "vit", "source": "monai", "options": {"pretrained": True}}, "vit has no option 'pretrained'"),
        ({"name": "vit", "source": "monai", "entry_point": "nets.py:build"}, "entry_point belongs to the source entry_point"),
        ({"name": "nets.build", "source": "entry_point"}, "entry_point belongs to the source entry_point"),
        ({"name": "vit", "source": "pickle"}, "source"),
    ],
)
def test_settings_that_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ExternalConfig(**{**SIZES, **fields})


def test_area_attention() -> None:
    assert has_attention(variant_config("reslink_small"))
    assert not has_attention(variant_config("reslink_small", attention="none"))
    assert has_attention(ExternalConfig(name="reslink_notebook", source="notebook", **SIZES))
    assert not has_attention(ExternalConfig(name="vit", source="monai", **SIZES))
