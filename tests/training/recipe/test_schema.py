"""The settings of a recipe: each is explained, and each field of the network can be set."""

from __future__ import annotations

import pytest
import yaml
from pydantic import BaseModel

from reslink.errors import UsageError
from reslink.labels import Labels
from reslink.networks.reslink import ResLinkConfig
from reslink.training.recipe import schema
from reslink.training.recipe.recipe import Recipe, load_recipe


def test_every_field_of_the_network_can_be_set() -> None:
    given_otherwise, of_other_networks = {"in_channels"}, set(schema.EXTERNAL_KEYS)
    settings = set(schema.ModelSettings.model_fields) - {"variant"} - of_other_networks
    assert set(ResLinkConfig.model_fields) - given_otherwise == settings
    changes = {"stem_dim": 12, "dims": (12, 24, 48), "depths": (1, 1, 1), "area_size": 3, "residual": False}
    changes |= {"attention": "final", "drop_rate": 0.3, "head_drop_rate": 0.4, "stem_order": "pool_first"}
    recipe = load_recipe(
        None,
        [
            f"model.{key}={yaml.safe_dump(value)}" if not isinstance(value, tuple) else f"model.{key}={list(value)}"
            for key, value in changes.items()
        ],
    )
    assert recipe.network(3).model_dump(include=set(changes)) == changes


@pytest.mark.parametrize("threshold", ["youden", 0.3])
def test_a_threshold_is_refused_for_more_than_two_classes(threshold: str | float) -> None:
    settings, three = schema.DecisionSettings(threshold=threshold), ("glioma", "meningioma", "pituitary")
    with pytest.raises(UsageError, match=rf"decision.threshold is {threshold}, but the data has 3 classes.*imbalance=weights"):
        settings.check_labels(Labels(three))
    settings.check_labels(Labels(three[:2]))
    settings.check_labels(Labels(three, exclusive=False))  # a threshold for each label
    schema.DecisionSettings().check_labels(Labels(three))


def _classes() -> list[type[BaseModel]]:
    return [Recipe] + [
        value
        for value in vars(schema).values()
        if isinstance(value, type) and issubclass(value, BaseModel) and value not in (BaseModel, schema.Section)
    ]


@pytest.mark.parametrize("settings", _classes(), ids=lambda cls: cls.__name__)
def test_every_setting_is_explained(settings: type[BaseModel]) -> None:
    for name in settings.model_fields:
        assert f"\n        {name}: " in (settings.__doc__ or "") or f"\n    {name}: " in (settings.__doc__ or ""), name
