"""Random numbers that depend on the seed, their purpose and the step alone.

Nothing has to be remembered for a run to go on: the numbers of step 120 are the same whether the run came there at once
or after ten interruptions. The global state of torch, which dropout draws from, is forked and given back.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator

import numpy as np
import torch


def numbers(seed: int, purpose: str, *place: int) -> np.random.Generator:
    """Returns a NumPy generator for one purpose at one place.

    Args:
        seed: The recipe's seed.
        purpose: Such as ``order`` or ``mixup``; different purposes are independent.
        *place: Where in the run: epoch, step, process; each at least 0.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(zlib.crc32(purpose.encode()), *place)))


def torch_seed(seed: int, purpose: str, *place: int) -> int:
    """Returns a seed for torch, with the arguments of ``numbers``."""
    return int(numbers(seed, purpose, *place).integers(2**62))


def torch_numbers(seed: int, purpose: str, *place: int) -> torch.Generator:
    """Returns a torch generator on the CPU, with the arguments of ``numbers``."""
    return torch.Generator().manual_seed(torch_seed(seed, purpose, *place))


@contextlib.contextmanager
def forked(device: torch.device) -> Iterator[None]:
    """Gives the global random state of torch back as it was, on the CPU and on the device."""
    devices = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield


def seed_layers(device: torch.device, seed: int) -> None:
    """Sets the generators that dropout draws from; only inside ``forked``."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
