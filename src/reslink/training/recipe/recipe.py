"""A training recipe: reads the YAML file, applies changes by dotted keys, checks strictly."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import yaml
from pydantic import Field, PrivateAttr, ValidationError, model_validator

from reslink.datasets.augment_settings import AugmentSettings
from reslink.errors import UsageError, check_choice
from reslink.files import sha256
from reslink.imaging.preprocess import Preprocess
from reslink.labels import several_labels_refused
from reslink.networks.config import VARIANTS, ResLinkConfig, variant_config
from reslink.networks.entry_points import Builder, entry_point_name, entry_point_of, load_entry_point
from reslink.networks.external_config import EXTERNAL_VARIANTS, ExternalConfig, external_source, installed_package
from reslink.settings_text import parse_yaml, read_yaml
from reslink.training.recipe.errors import SettingsSchema, explain, nearest_key
from reslink.training.recipe.inheritance import inherit, publishable_entry_point, publishable_path
from reslink.training.recipe.published import find_recipe
from reslink.training.recipe.schema import (
    EXTERNAL_KEYS,
    AttentionSupervisionSettings,
    DataSettings,
    DecisionSettings,
    DiagnosticsSettings,
    InitSettings,
    LossSettings,
    ModelSettings,
    OptimizerSettings,
    Section,
    TrainerSettings,
)

if TYPE_CHECKING:
    from torch import nn

Tree = dict[str, Any]


class Recipe(Section):
    """All settings of a training run besides the data.

    Attributes:
        seed: Seed of the split, the initial weights, the order of images, augmentation and dropout.
        data: Splits and groups of the cases.
        preprocess: From a slice to the network's input.
        model: The network.
        init: Fine-tuning: the parent whose weights the network starts from.
        optimizer: Optimizer and learning rate.
        augment: Augmentation of the training images.
        loss: The loss.
        trainer: Epochs, batches, device and exported weights.
        decision: From a probability to a label.
        diagnostics: The diagnostics of the run.
        attention_supervision: A loss term on the attention weights.
    """

    seed: int = Field(default=0, ge=0, lt=2**63)
    data: DataSettings = DataSettings()
    preprocess: Preprocess = Preprocess()
    model: ModelSettings = ModelSettings()
    init: InitSettings = InitSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    augment: AugmentSettings = AugmentSettings()
    loss: LossSettings = LossSettings()
    trainer: TrainerSettings = TrainerSettings()
    decision: DecisionSettings = DecisionSettings()
    diagnostics: DiagnosticsSettings = DiagnosticsSettings()
    attention_supervision: AttentionSupervisionSettings = AttentionSupervisionSettings()
    _builder: Builder | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _check_balance(self) -> Self:
        if self.data.balance_sources and self.loss.imbalance in ("sampler", "weights"):
            raise ValueError(
                f"loss.imbalance is {self.loss.imbalance} beside data.balance_sources, which balances classes too; leave it out"
            )
        return self

    @model_validator(mode="after")
    def _check_series(self) -> Self:
        if self.trainer.case == "series" and self.loss.mixup:
            raise ValueError("loss.mixup mixes images, which are not the cases with trainer.case series; it is 0 there")
        if self.trainer.case == "series" and self.attention_supervision.weight:
            raise ValueError("attention_supervision.weight needs cases that are slices; it is 0 with trainer.case series")
        if self.trainer.case == "series" and self.data.labels is not None:
            raise ValueError("data.labels are several labels at once, which trainer.case series does not support")
        if self.trainer.case == "series" and self.decision.flip_average:
            raise ValueError("decision.flip_average is true, which trainer.case series does not support; leave it out")
        return self

    @model_validator(mode="after")
    def _check_labels(self) -> Self:
        """Refuses settings for one class per image beside several labels at once."""
        if self.data.labels is None:
            return self
        if self.model.num_classes is not None:
            raise ValueError(
                f"model.num_classes is {self.model.num_classes} beside data.labels, which have one output each; leave it out"
            )
        if self.decision.flip_average:
            raise ValueError("decision.flip_average is true beside data.labels, which it does not support; leave it out")
        if self.data.balance_sources:
            raise ValueError("data.balance_sources is true beside data.labels, but it balances one class per image")
        if self.loss.imbalance == "sampler":
            raise ValueError(
                "loss.imbalance is sampler beside data.labels, but an image can have rare and common ones; use weights or focal"
            )
        return self

    def dump(self) -> Tree:
        """Returns the recipe as lists, numbers and strings."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """Returns the whole recipe as YAML; ``load_recipe`` reads it back to an equal recipe.

        A parent outside the working folder is written without its path.
        """
        tree = self.dump()
        if self.init.parent is not None:
            tree["init"]["parent"] = publishable_path(self.init.parent)
        if self.model.entry_point is not None:
            tree["model"]["entry_point"] = publishable_entry_point(self.model.entry_point)
        return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)

    def published(self) -> Tree:
        """Returns the settings that affect the weights: not the decoding processes, the device, and the path of a parent."""
        tree = self.dump()
        for section, name in _NEWER:
            if not tree[section][name]:
                del tree[section][name]
        if self.init.weights_sha256 is None:
            del tree["init"]
        else:
            del tree["init"]["parent"]
        if self.model.entry_point is not None:
            tree["model"]["entry_point"] = publishable_entry_point(self.model.entry_point)
        if not self.model.is_external:
            for name in EXTERNAL_KEYS:
                del tree["model"][name]
        for key in (*_LOCAL, *(_OF_SERIES if self.trainer.case == "slice" else ())):
            section, name = key.split(".")
            del tree[section][name]
        return tree

    def require_one_class_per_slice(self, what: str) -> None:
        """Checks that a case is a slice with one class, for what supports neither series nor several labels at once.

        Args:
            what: The command or function, which begins the message.

        Raises:
            UsageError: If a case is a series, or has several labels at once.
        """
        if self.data.labels is not None:
            column = self.data.labels[0] if len(self.data.labels) == 1 else "COLUMN"
            raise several_labels_refused(
                what,
                self.data.labels,
                f"Leave data.labels out, and choose the column of the class with --columns label={column}",
            )
        if self.trainer.case == "series":
            raise UsageError(
                f"{what} does not support trainer.case series",
                "It trains on cases that are slices",
                "Set trainer.case to slice, or use reslink train",
            )

    def digest(self) -> str:
        """Returns the SHA-256 of the published recipe as canonical JSON."""
        return sha256(json.dumps(self.published(), sort_keys=True, separators=(",", ":")))

    def network(self, num_classes: int | None = None) -> ResLinkConfig | ExternalConfig:
        """Returns the configuration of the network for data with ``num_classes`` classes.

        Args:
            num_classes: Classes of the data; if None, ``model.num_classes``, or 2.

        Raises:
            UsageError: If the variant is unknown, or a field of ``model`` is invalid.
        """
        stated = self.model.num_classes
        if num_classes is None:
            num_classes = 2 if stated is None else stated
        outputs = num_classes if stated is None else stated
        if outputs != num_classes and (outputs, num_classes) != (1, 2):
            raise UsageError(
                f"model.num_classes is {outputs}, but the data has {num_classes} classes",
                "It equals the number of classes, or is 1 (a single sigmoid logit) with two classes",
                "Leave model.num_classes out",
            )
        check_choice("network variant", self.model.variant, [*VARIANTS, *EXTERNAL_VARIANTS, *self._own_name()])
        try:
            if self.model.is_external:
                return self._external_network(outputs)
            return variant_config(
                self.model.variant,
                **self.model.changes(),
                in_channels=self.preprocess.channels,
                num_classes=outputs,
            )
        except ValidationError as error:
            raise explain(error, ResLinkConfig.model_json_schema(), prefix=("model",)) from None

    def reslink(self, num_classes: int) -> ResLinkConfig:
        """Returns the configuration of the network, for what only a ResLink has.

        Raises:
            UsageError: As :meth:`network`, or if the network is not a ResLink.
        """
        config = self.network(num_classes)
        if isinstance(config, ExternalConfig):
            raise UsageError(
                f"The network is {config.name}, which is not a ResLink",
                f"This is only possible with {', '.join(VARIANTS)}",
                "Choose one of them with model.variant",
            )
        return config

    def _own_name(self) -> tuple[str, ...]:
        return () if self.model.entry_point is None else (self.model.variant,)

    def _external_network(self, num_classes: int) -> ExternalConfig:
        model = self.model
        return ExternalConfig(
            name=model.variant,
            source=external_source(model.variant) if model.entry_point is None else "entry_point",
            entry_point=None if model.entry_point is None else publishable_entry_point(model.entry_point),
            options=model.options,
            explanation_layer=model.explanation_layer,
            in_channels=self.preprocess.channels,
            num_classes=num_classes,
            size=self.preprocess.size,
        )

    def architecture(self, num_classes: int) -> Tree:
        """Returns the architecture of the network for a bundle."""
        config = self.network(num_classes)
        case = {"case": self.trainer.case} if self.trainer.case == "series" else {}
        if isinstance(config, ExternalConfig):
            return config.model_dump(mode="json") | {"package": installed_package(config.source)} | case
        return {**config.model_dump(mode="json"), "name": self.model.variant, **case}

    def with_builder(self, builder: Builder) -> Recipe:
        """Returns the recipe with a callable that builds the network of its entry point."""
        recipe = self.model_copy()
        recipe._builder = builder
        return recipe

    def with_code(self) -> Recipe:
        """Returns the recipe with the code of its entry point loaded, so that it runs once; itself without an entry point.

        Raises:
            UsageError: If the entry point does not exist.
        """
        builder = self.builder()
        return self if builder is None else self.with_builder(builder)

    def builder(self) -> Builder | None:
        """Returns the callable that builds your own network, which runs the code of ``model.entry_point``; None for others.

        Raises:
            UsageError: If the entry point does not exist.
        """
        if self.model.entry_point is None or self._builder is not None:
            return self._builder
        return load_entry_point(self.model.entry_point)


_NEWER = (
    ("data", "holdout"),
    ("data", "labels"),
    ("data", "balance_sources"),
    ("augment", "sharpness"),
    ("decision", "flip_average"),
)
"""Settings that earlier versions did not have; at their default, a recipe is the same as before."""

_LOCAL = ("trainer.workers", "trainer.verify_files", "trainer.device")
_OF_SERIES = ("trainer.case", "trainer.slices")
"""Settings that do not affect the weights where a case is a slice."""


class _Loader(yaml.SafeLoader):
    """Reads 1e-3 as a number, which is a string in YAML 1.1, and refuses duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def load_recipe(path: str | Path | None = None, sets: Iterable[str | tuple[str, Any]] = ()) -> Recipe:
    """Reads a recipe and changes single settings.

    Args:
        path: YAML file or name of a published recipe; the default recipe if None. See :func:`find_recipe`.
        sets: Changes, applied in order: texts ``section.key=value`` with a value in YAML (``0.1``, ``true``,
            ``[0.8, 0.1, 0.1]``), or pairs of key and value.

    Returns:
        The checked recipe. With ``init.parent``, keys of ``model`` and ``preprocess`` that are not stated are those of the
        parent.

    Raises:
        BundleError: If the parent is missing, or cannot be a parent.
        UsageError: If the recipe cannot be read, a key is unknown (the nearest is named), a value is out of range, or the file
            names code (``model.entry_point``) that ``sets`` does not name too.
    """
    tree = {} if path is None else _read(find_recipe(path))
    changes = [_parse(change) if isinstance(change, str) else change for change in sets]
    if "model.entry_point" not in dict(changes):
        _check_no_code(tree)
    for key, value in changes:
        _put(tree, key, value)
    recipe = _validated(tree)
    if recipe.init.parent is not None:
        recipe = _validated(inherit(tree, recipe.init.parent, recipe.init.weights_sha256))
    recipe.network()  # raises errors of the network settings now, not after the images are read
    return recipe


def network_settings(network: str | Builder | nn.Module | None) -> Tree:
    """Returns the settings that choose a network, by dotted keys.

    Args:
        network: A variant, an entry point (with a colon), or a callable or module; None changes nothing.
    """
    if network is None:
        return {}
    if isinstance(network, str) and ":" not in network:
        return {"model.variant": network, "model.entry_point": None}
    entry_point = network if isinstance(network, str) else entry_point_of(network)
    return {"model.entry_point": entry_point, "model.variant": entry_point_name(entry_point)}


def changes_of(
    settings: Mapping[str, Any] | Sequence[str], options: Mapping[str, Any], network: str | Builder | nn.Module | None = None
) -> list[str | tuple[str, Any]]:
    """Returns what changes a recipe, as :func:`load_recipe` takes it; later changes replace earlier ones.

    Args:
        settings: Recipe keys and values, or texts such as ``seed=1``.
        options: Dotted keys and values; None changes nothing.
        network: As for :func:`network_settings`; it replaces ``settings``, and ``options`` replace it.
    """
    pairs = settings.items() if isinstance(settings, Mapping) else settings
    stated = ((key, value) for key, value in options.items() if value is not None)
    return [*pairs, *network_settings(network).items(), *stated]


def recipe_from_dict(tree: Tree) -> Recipe:
    """Checks a recipe in the form of nested dictionaries, such as that of a bundle.

    Raises:
        UsageError: As in ``load_recipe``.
    """
    return _validated(tree)


def _validated(tree: Tree) -> Recipe:
    try:
        return Recipe.model_validate_json(json.dumps(tree, default=str))
    except ValidationError as error:
        raise explain(error, Recipe.model_json_schema()) from None


def read_settings(path: Path) -> Any:
    """Returns the value of a YAML file that is read as recipes are: ``1e-3`` is a number, and no key is given twice.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not valid YAML in UTF-8, or exceeds a limit.
    """
    return read_yaml(path, _Loader)


def _read(path: Path) -> Tree:
    try:
        tree = read_settings(path)
    except OSError as error:
        raise UsageError(
            f"The recipe {path} cannot be read: {error.strerror}",
            "--recipe takes a YAML file or the name of a published recipe",
            "Check the path, or omit --recipe for the defaults",
        ) from error
    except ValueError as error:
        raise _not_a_recipe(path, str(error)) from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise _not_a_recipe(path, f"it holds a {type(tree).__name__}")
    return tree


def _check_no_code(tree: Tree) -> None:
    """Refuses a file that names code: a recipe from others must not run any."""
    model = tree.get("model")
    entry_point = model.get("entry_point") if isinstance(model, dict) else None
    if entry_point is not None:
        raise UsageError(
            f"The recipe names code, {entry_point}, that builds the network",
            "A recipe never runs code; you give your own network with the command",
            f"Pass {entry_point} with --network",
        )


def _not_a_recipe(path: Path, reason: str) -> UsageError:
    return UsageError(
        f"The recipe {path} is not YAML with sections: {reason}",
        "A recipe has sections such as 'trainer:' with keys such as 'epochs: 5' below",
        "Correct the file; config.yaml in any run folder is an example",
    )


def _parse(change: str) -> tuple[str, Any]:
    key, sign, text = change.partition("=")
    key = key.strip()
    if not sign or not key:
        raise UsageError(
            f"--set {change!r} has no '='" if not sign else f"--set {change!r} names no key",
            "A setting is written section.key=value",
            "Write for example --set trainer.epochs=10",
        )
    try:
        return key, parse_yaml(text, _Loader)
    except ValueError as error:
        raise UsageError(
            f"The value of --set {change!r} cannot be read",
            "A value is a number, a string, true, false, null or a list such as [0.8, 0.1, 0.1]",
            "Put a string with special characters in quotes",
        ) from error


def _put(tree: Tree, key: str, value: Any) -> None:
    if key not in keys() and not key.startswith("model.options."):
        raise UsageError(
            f"--set {key} is not a setting",
            "A setting is written section.key=value",
            nearest_key(key, keys()),
        )
    *parents, name = key.split(".")
    branch = tree
    for parent in parents:
        section = branch.setdefault(parent, {})
        if not isinstance(section, dict):
            raise UsageError(f"The recipe's {parent!r} is {section!r}", "A section has keys", "Correct the recipe")
        branch = section
    branch[name] = value


@cache  # pydantic takes longer for the schema than for a whole recipe
def keys() -> tuple[str, ...]:
    """Returns the dotted names of all settings, sections included."""
    return tuple(SettingsSchema(Recipe.model_json_schema()).keys())
