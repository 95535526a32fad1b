"""Architectures of the ResLink network: settings and named variants. Imports no torch, so that a recipe is checked quickly."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from reslink.errors import check_choice

Attention = Literal["both", "first", "final", "none"]


class ResLinkConfig(BaseModel):
    """Architecture of a ResLink network.

    Attributes:
        in_channels: Channels of the input.
        num_classes: Number of logits; 1 gives a single sigmoid logit of the positive class.
        stem_dim: Channels after the stem.
        stem_order: ``norm_first`` as in the paper, ``pool_first`` for speed; see ``blocks.Stem``.
        dims: Channels of each stage; every stage except the first halves the side.
        depths: Number of residual blocks of each stage.
        context_dim: Channels of the context stage before the final attention (``blocks.Context``); 0 for no context.
        area_size: Side of an attention area, in pixels of the feature map.
        attention: Which of the two area attention layers to use.
        residual: Whether residual blocks have a shortcut.
        drop_rate: Channel dropout rate of each residual block.
        head_drop_rate: Dropout rate before the dense layer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    in_channels: int = Field(default=3, ge=1, le=16)
    num_classes: int = Field(default=2, ge=1, le=1000)
    stem_dim: int = Field(default=32, ge=4, le=512)
    stem_order: Literal["norm_first", "pool_first"] = "norm_first"
    dims: tuple[int, ...] = Field(default=(32, 96, 192), min_length=1, max_length=4, strict=False)
    depths: tuple[int, ...] = Field(default=(2, 2, 2), min_length=1, max_length=4, strict=False)
    context_dim: int = Field(default=0, ge=0, le=2048)
    area_size: int = Field(default=7, ge=1, le=64)
    attention: Attention = "both"
    residual: bool = True
    drop_rate: float = Field(default=0.05, ge=0, lt=1)
    head_drop_rate: float = Field(default=0.2, ge=0, lt=1)

    @model_validator(mode="after")
    def _stages_agree(self) -> Self:
        if len(self.dims) != len(self.depths):
            raise ValueError(
                f"dims has {len(self.dims)} stages but depths has {len(self.depths)}; give one number per stage in both"
            )
        if min(self.dims) < 4 or max(self.dims) > 2048:
            raise ValueError(f"dims is {self.dims}; each width must be between 4 and 2048")
        if min(self.depths) < 0 or max(self.depths) > 64:
            raise ValueError(f"depths is {self.depths}; each depth must be between 0 and 64")
        if self.depths[0] == 0 and self.dims[0] != self.stem_dim:
            raise ValueError("depths[0] is 0, so the first stage has no block and dims[0] must equal stem_dim")
        return self

    @property
    def stride(self) -> int:
        """Stride of the final feature map in input pixels."""
        return int(4 * 2 ** (len(self.dims) - 1))


VARIANTS: dict[str, ResLinkConfig] = {
    # The network of the paper, which states the 7×7 stem, the layer order and the 224×224×3 input. Our choices: stem width 32,
    # stage widths 32-96-192, two residual blocks per stage, areas of 7×7, dropout 0.05 and 0.2.
    "reslink_paper": ResLinkConfig(),
    # Pools before normalization, has half the stem width, and has residual blocks only at low resolution.
    "reslink_small": ResLinkConfig(stem_dim=16, stem_order="pool_first", dims=(16, 64, 128), depths=(0, 2, 2)),
    # reslink_small with a context stage. On a held-out fold this was the largest gain of all changes tried: the receptive field
    # of reslink_small is too small to locate a lesion within the head.
    "reslink_context": ResLinkConfig(
        stem_dim=16, stem_order="pool_first", dims=(16, 64, 128), depths=(0, 2, 2), context_dim=144
    ),
}


def variant_config(name: str, **changes: Any) -> ResLinkConfig:
    """Returns the configuration of a variant, with some fields changed.

    Args:
        name: One of ``VARIANTS``.
        **changes: Fields of ``ResLinkConfig``.

    Raises:
        UsageError: If the variant is unknown.
        pydantic.ValidationError: If a changed field is invalid.
    """
    check_choice("network variant", name, VARIANTS)
    return ResLinkConfig.model_validate({**VARIANTS[name].model_dump(), **changes})
