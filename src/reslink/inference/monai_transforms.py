"""Parts of a bundle for other people's pipelines: dictionary transforms in the manner of MONAI, and the network alone.

The transforms are plain callables from dictionary to dictionary, so they stand in ``monai.transforms.Compose``, and need no
MONAI; nor torch.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError

from reslink.bundles.bundle import Bundle
from reslink.bundles.decision.decision import Decision
from reslink.errors import InputError, UsageError
from reslink.imaging.formats.numpy_array import image_of
from reslink.imaging.image import Image, Unit
from reslink.imaging.preprocess import Preprocess
from reslink.imaging.reading import read_image
from reslink.labels import Labels

if TYPE_CHECKING:
    from reslink.networks.reslink import ResLink

Keys = Hashable | Iterable[Hashable]
Settings = TypeVar("Settings", bound=BaseModel)


def load_network(bundle: str | Path) -> ResLink:
    """Returns the network of a bundle as a torch module, in eval mode on the CPU. Imports torch.

    It takes what :class:`ResLinkPreprocessd` makes, (B, C, S, S) float32, and returns logits (B, K) or (B, 1).

    Args:
        bundle: The name of a bundle that ships, such as ``ct``, or a folder.

    Raises:
        BundleError: If it is not a bundle that this version can use.
    """
    return Bundle.load(bundle).network()


class ResLinkPreprocessd:
    """Brings images of a dictionary to what the network sees: (C, S, S) float32, by the one ``Preprocess`` of the bundle.

    Args:
        keys: The key of the image, or several.
        bundle: The bundle whose preprocessing is used, a name or a folder.
        settings: The fields of ``Preprocess`` in place of a bundle.
        unit: Of arrays: ``HU``, ``MR`` or ``grey``; only uint8 needs none.
        allow_missing_keys: Whether a dictionary without a key passes.

    Raises:
        UsageError: If neither or both of ``bundle`` and ``settings`` are given.
        BundleError: If it is not a bundle that this version can use.
    """

    def __init__(
        self,
        keys: Keys,
        bundle: str | Path | None = None,
        settings: Mapping[str, Any] | None = None,
        unit: Unit | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        self.keys, self.unit, self.allow_missing_keys = _listed(keys), unit, allow_missing_keys
        _check_one(bundle, settings)
        self.preprocess = _stated(Preprocess, settings) if bundle is None else Bundle.load(bundle).preprocess

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns the dictionary with its images replaced.

        An image is a path, an ``Image``, or an array or tensor of (H, W) or (1, H, W). ``LoadImaged`` turns rows into columns;
        give paths instead of what it returns.

        Raises:
            InputError: If an image cannot be read or is not a single slice.
            UsageError: If a key is missing, or an array has no unit.
        """
        found = dict(data)
        for key in _present(self.keys, found, self.allow_missing_keys):
            found[key] = self.preprocess(_image_of(found[key], self.unit))
        return found


class ResLinkDecisiond:
    """Adds to logits of a dictionary what the bundle's decision makes of them.

    Beside ``pred`` there are then ``pred_probabilities`` (K,) float64, ``pred_label``, an index, and ``pred_class``, its name.

    Args:
        keys: The key of the logits, or several.
        bundle: The bundle whose decision is used, a name or a folder.
        settings: The fields of ``Decision`` in place of a bundle.
        labels: The class names, with ``settings``.
        allow_missing_keys: Whether a dictionary without a key passes.

    Raises:
        UsageError: If neither or both of ``bundle`` and ``settings`` are given, or settings without labels.
        BundleError: If it is not a bundle that this version can use.
    """

    def __init__(
        self,
        keys: Keys,
        bundle: str | Path | None = None,
        settings: Mapping[str, Any] | None = None,
        labels: Sequence[str] = (),
        allow_missing_keys: bool = False,
    ) -> None:
        self.keys, self.allow_missing_keys = _listed(keys), allow_missing_keys
        _check_one(bundle, settings)
        loaded = None if bundle is None else Bundle.load(bundle)
        self.labels = Labels(tuple(labels)) if loaded is None else loaded.labels
        self.decision = _stated(Decision, settings) if loaded is None else loaded.decision
        self.decision.check_classes(len(self.labels))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns the dictionary with the answers added.

        Raises:
            InputError: If logits have another shape than (K,), or are not finite.
            UsageError: If a key is missing.
        """
        found = dict(data)
        for key in _present(self.keys, found, self.allow_missing_keys):
            chances = self.decision.probabilities(np.atleast_2d(_array_of(found[key])))
            index = int(self.decision.predict(chances)[0])
            found |= {f"{key}_probabilities": chances[0], f"{key}_label": index, f"{key}_class": self.labels.names[index]}
        return found


def _listed(keys: Keys) -> tuple[Hashable, ...]:
    return (keys,) if isinstance(keys, str) or not isinstance(keys, Iterable) else tuple(keys)


def _present(keys: Sequence[Hashable], data: Mapping[Hashable, Any], allow_missing: bool) -> list[Hashable]:
    missing = [key for key in keys if key not in data]
    if missing and not allow_missing:
        raise UsageError(
            f"The dictionary has no key {missing[0]!r}",
            f"Its keys are {', '.join(map(repr, data)) or 'none'}",
            "Correct keys, or set allow_missing_keys=True",
        )
    return [key for key in keys if key in data]


def _check_one(bundle: object, settings: object) -> None:
    if (bundle is None) == (settings is None):
        raise UsageError(
            "Neither a bundle nor settings were given" if bundle is None else "A bundle and settings were both given",
            "The transform takes one of the two",
            'Give bundle="ct", a folder of your own, or settings',
        )


def _stated(kind: type[Settings], settings: Mapping[str, Any] | None) -> Settings:
    """Builds settings from what JSON holds."""
    try:
        return kind.model_validate_json(json.dumps(dict(settings or {})))
    except (ValidationError, TypeError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
        where = ".".join(map(str, first["loc"])) or "settings"
        raise UsageError(
            f"{where} cannot be used: {first['msg']}",
            f"The settings are fields of {kind.__name__}: {', '.join(kind.model_fields)}",
            "Correct it, or give a bundle instead",
        ) from error


def _array_of(value: Any) -> Any:
    """An array of an array, or of a tensor on any device."""
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)


def _image_of(value: Any, unit: Unit | None) -> Image:
    image = read_image(value) if isinstance(value, str | Path) else value
    if not isinstance(image, Image):
        array = _array_of(value)
        image = image_of(array[0] if array.ndim == 3 and len(array) == 1 else array, unit)
    planes = image.slices()
    if len(planes) != 1:
        raise InputError(
            f"{image.source or 'The image'} has {len(planes)} slices",
            "The transform takes one slice at a time",
            "Take the slices of a volume with Image.slices()",
        )
    return planes[0]
