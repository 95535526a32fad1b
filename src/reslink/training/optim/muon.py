"""Muon: hidden convolutions move along the orthogonalised momentum, everything else by AdamW.

Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; the scale that lets one learning rate
serve both is that of Liu et al. 2025, arXiv 2502.16982, section 2.2. Own code, since ``torch.optim.Muon`` takes matrices only:
a convolution is seen here as the matrix (out_channels, in_channels · height · width). A test holds both equal on a matrix.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5
MOMENTUM = 0.95
RMS = 0.2
"""Root mean square of an AdamW update, which the orthogonal update is scaled to."""


class Muon(torch.optim.AdamW):
    """AdamW whose groups marked ``hidden`` are moved by Muon instead.

    Args:
        groups: Parameter groups with the key ``hidden``.
        lr: Learning rate of both.
        fused: As in ``torch.optim.AdamW``.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float, *, fused: bool) -> None:
        super().__init__(groups, lr=lr, fused=fused)

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Moves all parameters that have a gradient."""
        for group in self.param_groups:
            for parameter in group["params"] if group["hidden"] else ():
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, group["lr"], group["weight_decay"])
                    parameter.grad = None  # AdamW leaves a parameter without a gradient alone
        super().step()

    def _move(self, parameter: Tensor, gradient: Tensor, lr: float, weight_decay: float) -> None:
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        update = gradient.lerp(momentum, MOMENTUM)
        matrix = update.reshape(len(update), -1)
        parameter.mul_(1 - lr * weight_decay)
        scale = RMS * max(matrix.shape) ** 0.5
        parameter.add_(orthogonalised(matrix).reshape(update.shape), alpha=-lr * scale)


def orthogonalised(matrix: Tensor) -> Tensor:
    """Returns a matrix with nearly the same singular vectors and all singular values near 1.

    Newton–Schulz iteration X ← (aI + bG + cG²) X, G = XXᵀ, with the coefficients of Jordan et al. 2024. Every factor is a
    polynomial of the first G, so the factors are multiplied on the short side alone and X is touched twice: 0.7 of the
    time of the usual form in bfloat16 for these convolutions. In single precision throughout: an eigenvalue of G that rounding
    makes negative grows without bound, and those of bfloat16 are large enough to do so within five steps.

    Args:
        matrix: (M, N).

    Returns:
        (M, N) in the type of ``matrix``; singular values between about 0.7 and 1.2.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x.float() / x.norm().clamp(min=1e-7)
    gram = x @ x.T
    product = _factor(gram)
    factor = product
    for _ in range(STEPS - 1):
        gram = factor @ (gram @ factor)
        factor = _factor(gram)
        product = factor @ product
    x = product @ x
    found: Tensor = (x.T if tall else x).to(matrix.dtype)
    return found


def _factor(gram: Tensor) -> Tensor:
    """Returns aI + bG + cG²."""
    a, b, c = COEFFICIENTS
    factor: Tensor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
    factor.diagonal().add_(a)
    return factor
