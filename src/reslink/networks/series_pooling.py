"""Gated attention pooling: from the slices of a series to one answer (Ilse, Tomczak, Welling 2018, arXiv 1802.04712).

A slice network returns features h and logits for each slice. The weight of a slice is

    a = softmax over the slices of wᵀ (tanh(V h) ⊙ sigmoid(U h))    (equation 9)

and the logits of the series are the sum of the logits of its slices with these weights. For a network that ends with a dense
layer, as ResLink does, this equals the dense layer on the weighted sum of the features, as in the paper.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from reslink.networks.network import Network


class SeriesForward(nn.Module):
    """The forward pass of a training step: logits of series.

    Args:
        network: A slice network with ``pooling``.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        """Returns logits (B, num_classes) of B series, whose slices follow each other in x (n, C, H, W).

        Args:
            x: The slices of all series.
            sizes: Number of slices of each series; their sum is n.
        """
        return pool(*slice_outputs(self.network, x), sizes)


def slice_outputs(network: Network, x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns logits (n, num_classes) and scores (n,) of slices x (n, C, H, W).

    Raises:
        ValueError: If the network has no pooling.
    """
    if network.pooling is None:
        raise ValueError("The network has no pooling over slices; build it with case='series'")
    logits, features, _ = network.forward_with_features(x)
    scores: Tensor = network.pooling(features)
    return logits.float(), scores.float()


def pool(logits: Tensor, scores: Tensor, sizes: Sequence[int]) -> Tensor:
    """Returns the logits (B, K) of B series from those of their slices.

    Args:
        logits: (n, K) of the slices, series after series.
        scores: (n,) of the slices.
        sizes: Number of slices of each series.
    """
    parts = zip(torch.split(logits, list(sizes)), torch.split(scores, list(sizes)), strict=True)
    return torch.stack([(score.softmax(dim=0)[:, None] * logit).sum(dim=0) for logit, score in parts])
