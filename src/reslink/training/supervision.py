"""The loss term that moves attention to where it should be, and the share of attention that is elsewhere."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from reslink.training.sections import AttentionSupervisionSettings

_EPSILON = 1e-6


def share_inside(gates: Tensor, mask: Tensor) -> Tensor:
    """Returns the share (B,) of an attention map's mass that lies inside a mask.

    Args:
        gates: (B, C, h, w) in (0, 1).
        mask: (B, 1, H, W) in 0 to 1, 1 inside; brought to (h, w) by mean pooling.
    """
    height, width = gates.shape[-2:]
    inside = F.adaptive_avg_pool2d(mask.float(), (height, width))
    return (gates * inside).sum(dim=(1, 2, 3)) / (gates.sum(dim=(1, 2, 3)) + _EPSILON)


def attention_loss(gates: Mapping[str, Tensor], mask: Tensor, settings: AttentionSupervisionSettings) -> Tensor:
    """Returns −log of the share of attention inside the mask, (B,), mean over the supervised layers.

    It is 0 when all attention is inside, and log(area / area of the mask) when the gates are the same everywhere. An
    image whose mask is empty adds nothing.

    Args:
        gates: Gates (B, C, h, w) by layer name, as ``record_gates`` gives them.
        mask: (B, 1, H, W), where attention should be.
        settings: The section ``attention_supervision`` of the recipe.
    """
    chosen = [value for name, value in gates.items() if settings.layers == "both" or name.startswith(settings.layers)]
    if not chosen:
        return torch.zeros(len(mask), device=mask.device)
    known = (mask.sum(dim=(1, 2, 3)) > 0).float()
    terms = [-(share_inside(value.float(), mask) + _EPSILON).log() for value in chosen]
    return torch.stack(terms).mean(dim=0) * known


def target_mask(heads: Tensor, lesions: Tensor | None, settings: AttentionSupervisionSettings) -> Tensor:
    """Returns where attention should be: the lesion where one is marked and asked for, the head elsewhere.

    Args:
        heads: (B, 1, H, W) in 0 to 1.
        lesions: The same for lesions, or None.
        settings: The section ``attention_supervision`` of the recipe.
    """
    if settings.target == "head" or lesions is None:
        return heads
    marked = lesions.amax(dim=(1, 2, 3), keepdim=True) > 0.5
    return torch.where(marked, lesions, heads)
