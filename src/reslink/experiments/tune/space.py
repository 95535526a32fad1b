"""The space of a search: which recipe keys are varied, and between which values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from reslink.errors import UsageError, check_choice
from reslink.experiments.tune.dimensions import Choice, Dimension, parse_dimension
from reslink.settings_text import flatten
from reslink.training.recipe.errors import SettingsSchema, nearest_key
from reslink.training.recipe.recipe import Recipe, Tree, keys, read_settings, recipe_from_dict

PRESETS = Path(str(resources.files("reslink.experiments.tune") / "presets"))
"""Folder of the spaces that ship with reslink, ``NAME.yaml`` each."""

EXAMPLE_LINE = "Write for example optimizer.lr: {low: 1e-4, high: 1e-2, log: true}"

NOT_SEARCHED = {
    "seed": "it would select a lucky seed",
    "data": "all trials have the same cases, groups and folds",
    "decision": "it is no part of the training, and the AUROC does not depend on it",
    "diagnostics": "it does not change the weights",
    "init.parent": "all trials start from the same parent",
    "init.weights_sha256": "all trials start from the same parent",
    "model.entry_point": "a space never names code",
    "model.num_classes": "it follows from the data",
    "model.explanation_layer": "it does not change the weights",
    "trainer.case": "a case is a slice in all trials",
    "trainer.slices": "it is only for cases that are series",
    "trainer.workers": "it does not change the weights",
    "trainer.verify_files": "it does not change the weights",
    "trainer.device": "it does not change the recipe",
    "trainer.checkpoint_steps": "it does not change the weights",
}
"""Keys and sections that a space cannot hold, and why."""


@dataclass(frozen=True)
class Space:
    """The dimensions of a search.

    Attributes:
        dimensions: Dotted recipe key to its dimension.
        left_out: Keys of a preset that do not apply to the network of the recipe.
    """

    dimensions: Mapping[str, Dimension]
    left_out: tuple[str, ...] = ()

    def distributions(self) -> dict[str, Any]:
        """Returns Optuna's distributions."""
        return {key: dimension.distribution() for key, dimension in self.dimensions.items()}

    def values(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the values of recipe keys for parameters of Optuna."""
        return {key: self.dimensions[key].value(parameter) for key, parameter in parameters.items()}

    def parameters(self, values: Mapping[str, Any]) -> dict[str, Any] | None:
        """Returns the parameters of Optuna for the values of a recipe; None if a value is outside the space."""
        if self.outside(values):
            return None
        return {key: dimension.parameter(values[key]) for key, dimension in self.dimensions.items()}

    def outside(self, values: Mapping[str, Any]) -> list[str]:
        """Returns the keys whose value is outside the space."""
        return [key for key, dimension in self.dimensions.items() if not dimension.contains(values[key])]

    @cached_property
    def tree(self) -> Tree:
        """The space in the form of its YAML file."""
        return {key: dimension.as_setting() for key, dimension in self.dimensions.items()}


def preset_names() -> list[str]:
    """Returns the names of the spaces that ship with reslink, from the smallest to the largest."""
    return sorted((path.stem for path in PRESETS.glob("*.yaml")), key=lambda name: (PRESETS / f"{name}.yaml").stat().st_size)


def load_space(source: str | Path | Mapping[str, Any] | None, preset: str | None, recipe: Recipe) -> Space:
    """Reads and checks a space before anything is trained.

    Args:
        source: A YAML file, or its content; None for the preset.
        preset: Name of a space that ships with reslink; None for ``quick`` if there is no ``source``.
        recipe: The base recipe, which each value of the space must fit.

    Raises:
        UsageError: If both are given, the file cannot be read, a key is unknown or cannot be searched, a range is not valid,
            or the recipe refuses a value.
    """
    if source is not None and preset is not None:
        raise UsageError(
            "--space and --preset were both given", "A search has one space", "Give a file with --space, or choose a --preset"
        )
    if source is not None:
        return _checked(_read_tree(source), recipe)
    name = preset or "quick"
    check_choice("preset", name, preset_names())
    tree = _read_tree(PRESETS / f"{name}.yaml")
    left_out = tuple(key for key in tree if key.startswith("model.") and recipe.model.is_external)
    return _checked({key: value for key, value in tree.items() if key not in left_out}, recipe, left_out)


def _read_tree(source: str | Path | Mapping[str, Any]) -> Tree:
    try:
        tree = dict(source) if isinstance(source, Mapping) else read_settings(Path(source))
    except OSError as error:
        raise _cannot_be_read(source, str(error.strerror)) from error
    except ValueError as error:
        raise _cannot_be_read(source, str(error)) from error
    if not isinstance(tree, dict) or not tree:
        raise UsageError("The space has no recipe key", "A space has a line for each key that is varied", EXAMPLE_LINE)
    return {str(key): list(value) if isinstance(value, tuple) else value for key, value in tree.items()}


def _cannot_be_read(path: object, reason: str) -> UsageError:
    return UsageError(
        f"The space {path} cannot be read: {reason}", "--space takes a YAML file with a line for each recipe key", EXAMPLE_LINE
    )


def _checked(tree: Tree, recipe: Recipe, left_out: tuple[str, ...] = ()) -> Space:
    dimensions: dict[str, Dimension] = {}
    schema = SettingsSchema(Recipe.model_json_schema())
    for key, setting in tree.items():
        _check_key(key)
        dimensions[key] = parse_dimension(key, setting, whole=schema.takes_whole_numbers(key.split(".")))
        for value in dimensions[key].checked_values():
            _check_value(recipe, key, value)
    return Space(dimensions, left_out)


def _check_key(key: str) -> None:
    known = keys()
    if key not in known and not key.startswith("model.options."):
        raise UsageError(f"The space has the unknown key {key!r}", "It has dotted recipe keys", nearest_key(key, known))
    reason = NOT_SEARCHED.get(key) or NOT_SEARCHED.get(key.partition(".")[0])
    if reason is not None:
        raise UsageError(
            f"The space contains {key}",
            f"It is the same in all trials: {reason}",
            f"Remove {key} from the space, or set it with --set {key}=…",
        )
    if any(other.startswith(f"{key}.") for other in known) or key == "model.options":
        raise UsageError(
            f"The space contains {key}, which is a section",
            "A space has single settings",
            f"Write for example {next((other for other in known if other.startswith(f'{key}.')), f'{key}.width')}: …",
        )


def _check_value(recipe: Recipe, key: str, value: Any) -> None:
    """Refuses a value that the recipe refuses."""
    try:
        with_settings(recipe, {key: value})
    except UsageError as error:
        raise UsageError(
            f"The space of {key} contains {value}. {error.given}", error.allowed, f"Correct {key} in the space"
        ) from None


def with_settings(recipe: Recipe, settings: Mapping[str, Any], num_classes: int | None = None) -> Recipe:
    """Returns a recipe with some settings changed, checked with its network.

    Args:
        recipe: The recipe.
        settings: Dotted key to value.
        num_classes: Number of classes of the data, if known.

    Raises:
        UsageError: If the recipe refuses them.
    """
    tree = recipe.dump()
    for key, value in settings.items():
        *parents, name = key.split(".")
        branch = tree
        for parent in parents:
            branch = branch[parent]
        branch[name] = value
    changed = recipe_from_dict(tree)
    changed.network(num_classes)
    return changed


def base_values(space: Space, recipe: Recipe, num_classes: int) -> dict[str, Any]:
    """Returns the values of the base recipe for the keys of a space; those of the network variant where it states none."""
    stated = dict(flatten(recipe.dump()))
    network = recipe.network(num_classes).model_dump(mode="json")
    values = {}
    for key in space.dimensions:
        value = stated.get(key)
        if value is None and key.startswith("model."):
            value = network.get(key.removeprefix("model."))
        values[key] = value
    return values


def describe(space: Space) -> list[dict[str, str]]:
    """Returns one row per key, with its values in words."""
    return [{"key": key, "values": _describe(dimension)} for key, dimension in space.dimensions.items()]


def _describe(dimension: Dimension) -> str:
    if isinstance(dimension, Choice):
        return ", ".join("null" if value is None else str(value) for value in dimension.values)
    step = "" if dimension.step is None else f" in steps of {dimension.step:g}"
    return f"{dimension.low:g} to {dimension.high:g}{step}{', logarithmic' if dimension.log else ''}"
