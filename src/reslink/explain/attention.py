"""The gates of area attention as maps: where a ResLink opens, where it closes."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from reslink.explain.eval_mode import own_copy, visiting, whole
from reslink.networks.area_attention import record_gates


def attention_maps(network: nn.Module, x: Tensor) -> dict[str, NDArray[np.float32]]:
    """Returns the gates α of every area-attention layer, in one forward pass.

    Args:
        network: Any module that holds an ``AreaAttention``; its mode, hooks and weights stay as they are.
        x: (B, C, H, W) float, normalised as in training.

    Returns:
        Maps (B, h, w) float32 in (0, 1), the mean over the channels of the gates, at the size of the feature map that
        they gate; high = let through. The key is the name of the layer: ``first_attention`` and
        ``final_attention`` for a ResLink; no key for a layer that is off, no key at all for a network without area attention.
    """
    with visiting(network), torch.no_grad(), record_gates(network) as gates:
        network(own_copy(x, network))
        return {name: whole(gate.mean(dim=1)) for name, gate in gates.items()}
