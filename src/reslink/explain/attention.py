"""Attention maps: the attention weights of the area-attention layers of a network."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from reslink.explain.evaluation_mode import evaluation_mode, gradient_input, to_numpy
from reslink.networks.area_attention import record_attention_weights


def attention_maps(network: nn.Module, x: Tensor) -> dict[str, NDArray[np.float32]]:
    """Returns the attention weights α of every area-attention layer, from one forward pass.

    Args:
        network: Any module that contains an ``AreaAttention``; its mode, hooks and weights are unchanged afterwards.
        x: (B, C, H, W) float, normalized as in training.

    Returns:
        Layer name to maps (B, h, w) float32 in (0, 1): the attention weights, averaged over channels, at the size of the
        feature map that they multiply. A ResLink has the layers ``first_attention`` and ``final_attention``; layers that are
        switched off are missing, and the result is empty for a network without area attention.
    """
    with evaluation_mode(network), torch.no_grad(), record_attention_weights(network) as weights:
        network(gradient_input(x, network))
        return {name: to_numpy(alpha.mean(dim=1)) for name, alpha in weights.items()}
