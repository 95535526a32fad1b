"""From sampled values to a recipe: settings without effect are not varied, and equal trainings have equal digests."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from reslink.experiments.tune.space import with_settings
from reslink.files import sha256
from reslink.networks.config import ResLinkConfig
from reslink.settings_text import flatten
from reslink.training.recipe.recipe import Recipe, Tree

_NOT_TRAINED = ("data", "decision", "diagnostics")
"""Sections that are the same in all trials."""

_WITHOUT_EFFECT: dict[str, Callable[[Mapping[str, Any]], bool]] = {
    "optimizer.momentum": lambda settings: settings["optimizer.name"] != "sgd",
    "loss.focal_gamma": lambda settings: settings["loss.imbalance"] != "focal",
    "attention_supervision.target": lambda settings: not settings["attention_supervision.weight"],
    "attention_supervision.layers": lambda settings: not settings["attention_supervision.weight"],
    "init.lr_factor": lambda settings: settings["init.parent"] is None,
    "augment": lambda settings: not settings["augment.enabled"],
}
"""Keys, or sections, and when they do not change the training."""


def candidate(base: Recipe, values: Mapping[str, Any], num_classes: int) -> tuple[Recipe, dict[str, Any]]:
    """Returns the recipe of a trial, and the values that differ from the base recipe.

    A value without effect, such as the momentum of an optimizer without one, stays that of the base recipe: otherwise two
    trials could train identically.

    Args:
        base: The base recipe.
        values: Dotted key to value.
        num_classes: Number of classes of the data.

    Raises:
        UsageError: If the recipe refuses the values together.
    """
    before = dict(flatten(base.dump()))
    settings = before | dict(values)
    effective = {key: value for key, value in values.items() if not _has_no_effect(key, settings)}
    return with_settings(base, effective, num_classes), effective


def _has_no_effect(key: str, settings: Mapping[str, Any]) -> bool:
    if key == "augment.enabled":
        return False
    rule = _WITHOUT_EFFECT.get(key) or _WITHOUT_EFFECT.get(key.partition(".")[0])
    return rule is not None and rule(settings)


def training_digest(recipe: Recipe, num_classes: int) -> str:
    """Returns the SHA-256 of what determines the weights of a trial: recipes with the same digest train identically.

    The settings of the network are those of its architecture, so that a default and the same value, stated, are equal.
    """
    tree: Tree = {name: section for name, section in recipe.published().items() if name not in _NOT_TRAINED}
    tree["model"] = recipe.architecture(num_classes)
    if isinstance(recipe.network(num_classes), ResLinkConfig):
        del tree["model"]["name"]  # of a variant, which is nothing but a set of defaults
    return sha256(json.dumps(tree, sort_keys=True, separators=(",", ":")))
