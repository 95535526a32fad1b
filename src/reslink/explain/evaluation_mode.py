"""Context manager that runs a network in evaluation mode and restores its state, with small tensor helpers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@contextlib.contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Puts a network into evaluation mode and restores it afterwards, even after an exception.

    The training mode of every sub-module is restored, so that a frozen BatchNorm stays frozen. Hooks that were added inside the
    block are removed. Gradients are enabled inside the block, whatever the caller set.

    Args:
        network: Any module.
    """
    modes = [(module, module.training) for module in network.modules()]
    hooks = [(getattr(module, name), set(getattr(module, name))) for module, _ in modes for name in _HOOKS]
    network.eval()
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
        for table, before in hooks:
            for key in set(table) - before:
                del table[key]


def gradient_input(x: Tensor, network: nn.Module) -> Tensor:
    """Returns a copy of a batch that requires gradients, on the device of the network."""
    parameter = next(network.parameters(), None)
    device = x.device if parameter is None else parameter.device
    return x.detach().to(device).clone().requires_grad_(True)


def to_numpy(maps: Tensor) -> NDArray[np.float32]:
    """Returns maps as float32 arrays on the CPU; non-finite values become 0 (no evidence)."""
    values = maps.detach().float().cpu().numpy()
    return np.asarray(np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0), dtype=np.float32)


def resize_maps(maps: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resizes maps by bilinear interpolation with aligned pixel areas.

    Args:
        maps: (B, h, w) float32.
        size: New height and width.

    Returns:
        (B, height, width) float32, within the range of the input.
    """
    if maps.shape[-2:] == size:
        return maps
    resized = functional.interpolate(torch.from_numpy(maps)[:, None], size=size, mode="bilinear", align_corners=False)
    return np.asarray(resized[:, 0].numpy(), dtype=np.float32)
