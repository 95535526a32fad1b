"""Dictionary transforms in MONAI style for the preprocessing and the decision of a bundle, and its network.

The transforms are callables from dictionary to dictionary. They work in ``monai.transforms.Compose`` and need neither MONAI nor
torch.
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
from reslink.imaging.formats.numpy_array import image_from_array
from reslink.imaging.image import Image, Unit
from reslink.imaging.preprocess import Preprocess
from reslink.imaging.reading import read_image
from reslink.labels import Labels

if TYPE_CHECKING:
    from reslink.networks.network import Network

Keys = Hashable | Iterable[Hashable]
Settings = TypeVar("Settings", bound=BaseModel)


def load_network(bundle: str | Path) -> Network:
    """Returns the network of a bundle as a torch module, in eval mode on the CPU. Imports torch.

    The network takes (B, C, S, S) float32, the output of :class:`ResLinkPreprocessd`, and returns logits (B, K) or (B, 1).

    Args:
        bundle: The name of a shipped model, such as ``ct``, or the folder of a bundle.

    Raises:
        BundleError: If this version cannot use the bundle.
    """
    loaded = Bundle.load(bundle)
    loaded.require_slices("load_network")
    return loaded.network()


class ResLinkPreprocessd:
    """Preprocesses the images of a dictionary for the network: (C, S, S) float32, with the ``Preprocess`` of the bundle.

    Args:
        keys: The key or keys of the images.
        bundle: The bundle that provides the preprocessing, a name or a folder.
        settings: Fields of ``Preprocess``, instead of a bundle.
        unit: Unit of arrays: ``HU``, ``MR`` or ``gray``. Optional for uint8.
        allow_missing_keys: Whether a dictionary may lack a key.

    Raises:
        UsageError: If neither or both of ``bundle`` and ``settings`` are given.
        BundleError: If this version cannot use the bundle.
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
        """Returns the dictionary with its images preprocessed.

        An image is a path, an ``Image``, or an array or tensor of shape (H, W) or (1, H, W). Pass paths, not the output of
        MONAI's ``LoadImaged``, which swaps rows and columns.

        Raises:
            InputError: If an image cannot be read or is not a single slice.
            UsageError: If a key is missing, or an array has no unit.
        """
        transformed = dict(data)
        for key in _present(self.keys, transformed, self.allow_missing_keys):
            transformed[key] = self.preprocess(_image_of(transformed[key], self.unit))
        return transformed


class ResLinkDecisiond:
    """Applies the bundle's decision to the logits of a dictionary.

    For the key ``pred`` it adds ``pred_probabilities`` (K,) float64, the class index ``pred_label`` and the class name
    ``pred_class``.

    Args:
        keys: The key or keys of the logits.
        bundle: The bundle that provides the decision, a name or a folder.
        settings: Fields of ``Decision``, instead of a bundle.
        labels: The class names; needed with ``settings``.
        allow_missing_keys: Whether a dictionary may lack a key.

    Raises:
        UsageError: If neither or both of ``bundle`` and ``settings`` are given, or ``settings`` without ``labels``.
        BundleError: If this version cannot use the bundle.
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
        if loaded is not None:
            loaded.require_slices(type(self).__name__)
        self.labels = Labels(tuple(labels)) if loaded is None else loaded.labels
        self.labels.require_exclusive("ResLinkDecisiond", "Apply the bundle with reslink.Classifier")
        self.decision = _stated(Decision, settings) if loaded is None else loaded.decision
        self.decision.check_classes(len(self.labels))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns the dictionary with probabilities, labels and class names added.

        Raises:
            InputError: If the shape of the logits is not (K,), or a logit is not finite.
            UsageError: If a key is missing.
        """
        transformed = dict(data)
        for key in _present(self.keys, transformed, self.allow_missing_keys):
            probabilities = self.decision.probabilities(np.atleast_2d(_array_of(transformed[key])))
            index = int(self.decision.predict(probabilities)[0])
            transformed |= {
                f"{key}_probabilities": probabilities[0],
                f"{key}_label": index,
                f"{key}_class": self.labels.names[index],
            }
        return transformed


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
            "Neither bundle nor settings was given" if bundle is None else "Both bundle and settings were given",
            "The transform takes exactly one of the two",
            'Pass bundle="ct", the folder of your own bundle, or settings',
        )


def _stated(kind: type[Settings], settings: Mapping[str, Any] | None) -> Settings:
    """Validates settings as if they were read from JSON."""
    try:
        return kind.model_validate_json(json.dumps(dict(settings or {})))
    except (ValidationError, TypeError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
        field = ".".join(map(str, first["loc"])) or "settings"
        raise UsageError(
            f"{field} is invalid: {first['msg']}",
            f"The settings are fields of {kind.__name__}: {', '.join(kind.model_fields)}",
            "Correct the field, or pass a bundle instead",
        ) from error


def _array_of(value: Any) -> Any:
    """Returns an array or a tensor on any device as an array."""
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)


def _image_of(value: Any, unit: Unit | None) -> Image:
    image = read_image(value, unit) if isinstance(value, str | Path) else value
    if not isinstance(image, Image):
        array = _array_of(value)
        image = image_from_array(array[0] if array.ndim == 3 and len(array) == 1 else array, unit)
    planes = image.slices()
    if len(planes) != 1:
        raise InputError(
            f"{image.source or 'The image'} has {len(planes)} slices",
            "The transform takes one slice at a time",
            "Split the volume with Image.slices()",
        )
    return planes[0]
