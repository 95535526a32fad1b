"""Settings of networks that are not a ``ResLinkConfig``: MONAI's, a public notebook's, or your own. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from reslink.errors import suggest
from reslink.networks.config import ResLinkConfig

Ranges = Mapping[str, tuple[float, float]]
Source = Literal["monai", "notebook", "entry_point"]

_RESNET: Final[Ranges] = {"conv1_t_size": (3, 7), "conv1_t_stride": (1, 2), "no_max_pool": (0, 1), "widen_factor": (0.1, 4)}
_DENSENET: Final[Ranges] = {"init_features": (4, 256), "growth_rate": (4, 64), "dropout_prob": (0, 0.9)}

EXTERNAL_VARIANTS: Final[dict[str, Ranges]] = {
    "reslink_notebook": {},
    "densenet121": _DENSENET,
    "densenet169": _DENSENET,
    "resnet18": _RESNET,
    "resnet34": _RESNET,
    "resnet50": _RESNET,
    "seresnet50": {"dropout_prob": (0, 0.9)},
    "efficientnet_b0": {},
    "efficientnet_b1": {},
    "efficientnet_b2": {},
    "vit": {
        "patch_size": (4, 64),
        "hidden_size": (8, 2048),
        "mlp_dim": (8, 8192),
        "num_layers": (1, 48),
        "num_heads": (1, 32),
        "dropout_rate": (0, 0.9),
    },
}
"""Networks by name, with the options of each and their ranges. No option can load weights or run code."""


class ExternalConfig(BaseModel):
    """A network that another package or your own code builds.

    Attributes:
        name: Name of the variant, or of the entry point.
        source: ``monai``, ``notebook`` (``reslink_notebook``), or ``entry_point`` (your own code).
        entry_point: ``package.module:callable`` or ``file.py:callable`` of your own network, else None.
        options: Options of the network.
        explanation_layer: Name of the module whose feature map Grad-CAM explains; found if None.
        in_channels: Channels of the input.
        num_classes: Number of logits; 1 gives a single sigmoid logit of the positive class.
        size: Side of the input in pixels.
        package: Package and version that the weights were trained with, for the record.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str
    source: Source
    entry_point: str | None = None
    options: dict[str, JsonValue] = {}
    explanation_layer: str | None = None
    in_channels: int = Field(ge=1, le=16)
    num_classes: int = Field(ge=1, le=1000)
    size: int = Field(ge=64, le=1024)
    package: str | None = None

    @model_validator(mode="after")
    def _check_options(self) -> Self:
        if (self.source == "entry_point") != (self.entry_point is not None):
            raise ValueError("entry_point belongs to the source entry_point, and to no other")
        if self.source != "entry_point":
            _check_variant_options(self.name, self.options)
        return self


ENSEMBLE: Final = "ensemble"


class EnsembleConfig(BaseModel):
    """Several networks of one architecture that answer as one (:mod:`reslink.networks.ensemble`).

    Attributes:
        count: Number of members.
        member: Architecture of each member.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    count: int = Field(ge=2, le=200)
    member: ResLinkConfig | ExternalConfig


def ensemble_architecture(member: Mapping[str, Any], count: int) -> dict[str, Any]:
    """Returns the architecture of a bundle for several members of one architecture."""
    shared = {name: member[name] for name in ("in_channels", "num_classes")}
    return {"name": ENSEMBLE, "source": ENSEMBLE, **shared, "count": count, "member": dict(member)}


def member_architecture(architecture: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the architecture of the members of an ensemble; that of another network unchanged."""
    return architecture["member"] if architecture.get("source") == ENSEMBLE else architecture


def has_attention(config: ResLinkConfig | ExternalConfig) -> bool:
    """Returns whether a network has area attention, as far as its settings say."""
    return config.attention != "none" if isinstance(config, ResLinkConfig) else config.source == "notebook"


def external_source(variant: str) -> Source:
    """Returns the source of a variant of ``EXTERNAL_VARIANTS``."""
    return "notebook" if variant == "reslink_notebook" else "monai"


def installed_package(source: Source) -> str | None:
    """Returns package and version of a source, such as ``monai==1.6.1``; None for the other sources."""
    return f"monai=={metadata.version('monai')}" if source == "monai" else None


def _check_variant_options(name: str, options: Mapping[str, Any]) -> None:
    if name not in EXTERNAL_VARIANTS:
        raise ValueError(f"there is no variant {name}; {suggest(name, EXTERNAL_VARIANTS)}")
    ranges = EXTERNAL_VARIANTS[name]
    for option, value in options.items():
        if option not in ranges:
            raise ValueError(f"{name} has no option {option!r}; its options are: {', '.join(ranges) or 'none'}")
        low, high = ranges[option]
        if not isinstance(value, int | float) or not low <= value <= high:
            raise ValueError(f"{option} of {name} is {value!r}; it is between {low:g} and {high:g}")
