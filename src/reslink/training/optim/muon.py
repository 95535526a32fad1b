"""Muon: optimizes hidden convolutions along the orthogonalized momentum, all other parameters with AdamW.

Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks". The scale that allows one learning rate
for both optimizers is that of Liu et al. 2025, arXiv 2502.16982, section 2.2. ``torch.optim.Muon`` accepts only matrices.
Here a convolution is treated as the matrix (out_channels, in_channels · height · width). A test compares both on a matrix.
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
"""Root mean square of an AdamW update; the orthogonal update is scaled to it."""


class Muon(torch.optim.AdamW):
    """AdamW that uses Muon for parameter groups marked ``hidden``.

    Args:
        groups: Parameter groups with the key ``hidden``.
        lr: Learning rate of both.
        fused: As in ``torch.optim.AdamW``.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float, *, fused: bool) -> None:
        super().__init__(groups, lr=lr, fused=fused)

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Updates all parameters that have a gradient."""
        for group in self.param_groups:
            for parameter in group["params"] if group["hidden"] else ():
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group["lr"], group["weight_decay"])
                    parameter.grad = None  # AdamW skips parameters without a gradient
        super().step()

    def _update(self, parameter: Tensor, gradient: Tensor, lr: float, weight_decay: float) -> None:
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        update = gradient.lerp(momentum, MOMENTUM)
        matrix = update.reshape(len(update), -1)
        parameter.mul_(1 - lr * weight_decay)
        scale = RMS * max(matrix.shape) ** 0.5
        parameter.add_(orthogonalize(matrix).reshape(update.shape), alpha=-lr * scale)


def orthogonalize(matrix: Tensor) -> Tensor:
    """Returns a matrix with nearly the same singular vectors and all singular values near 1.

    Newton–Schulz iteration X ← (aI + bG + cG²) X, G = XXᵀ, with the coefficients of Jordan et al. 2024. Every factor is a
    polynomial of the first G. So the factors are multiplied in the short dimension and X is used only twice, which takes 0.7 of
    the time of the usual form in bfloat16 for these convolutions. Single precision is required: rounding in bfloat16 can make
    eigenvalues of G negative, and these grow without bound within five steps.

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
    result: Tensor = (x.T if tall else x).to(matrix.dtype)
    return result


def _factor(gram: Tensor) -> Tensor:
    """Returns aI + bG + cG²."""
    a, b, c = COEFFICIENTS
    factor: Tensor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
    factor.diagonal().add_(a)
    return factor
