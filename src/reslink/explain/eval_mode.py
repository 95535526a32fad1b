"""A visit to a network: it is looked at in evaluation mode and left as it was found."""

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
def visiting(network: nn.Module) -> Iterator[None]:
    """Puts a network into evaluation mode and restores it afterwards, also when an exception passes.

    What is restored: the mode of every sub-module (a frozen BatchNorm in a network that trains stays frozen), and the
    hooks (those that were there stay, those that came during the visit go). Gradients are enabled inside, whatever
    the caller set.

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


def own_copy(x: Tensor, network: nn.Module) -> Tensor:
    """Returns a copy of a batch that gradients may flow into, on the device of the network."""
    parameter = next(network.parameters(), None)
    device = x.device if parameter is None else parameter.device
    return x.detach().to(device).clone().requires_grad_(True)


def whole(maps: Tensor) -> NDArray[np.float32]:
    """Returns maps as float32 arrays on the CPU; a value that is not finite counts as 0, no evidence."""
    values = maps.detach().float().cpu().numpy()
    return np.asarray(np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0), dtype=np.float32)


def enlarge(maps: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Brings maps to another size by bilinear interpolation, pixel areas aligned.

    Args:
        maps: (B, h, w) float32.
        size: Height and width wanted.

    Returns:
        (B, height, width) float32, within the range of the input.
    """
    if maps.shape[-2:] == size:
        return maps
    grown = functional.interpolate(torch.from_numpy(maps)[:, None], size=size, mode="bilinear", align_corners=False)
    return np.asarray(grown[:, 0].numpy(), dtype=np.float32)
