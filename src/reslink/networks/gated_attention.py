"""Gated attention over the slices of a series (Ilse, Tomczak, Welling 2018, arXiv 1802.04712, equation 9)."""

from __future__ import annotations

from typing import Final

from torch import Tensor, nn

HIDDEN: Final = 128
"""Width of V and U, as in the paper."""


class GatedAttention(nn.Module):
    """Scores slices by their features; the softmax of the scores over a series is the weight of each slice.

    Args:
        dim: Number of features.

    Attributes:
        value: V.
        gate: U.
        score: w.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.value, self.gate = nn.Linear(dim, HIDDEN), nn.Linear(dim, HIDDEN)
        self.score = nn.Linear(HIDDEN, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Returns the scores (n,) of slices with features (n, dim)."""
        scores: Tensor = self.score(self.value(features).tanh() * self.gate(features).sigmoid())
        return scores[:, 0]
