"""Random numbers that depend only on the seed, their purpose and the step.

Resuming needs no stored random state: the numbers of step 120 are the same with or without interruptions. The global state of
torch, which dropout uses, is forked and restored.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator

import numpy as np
import torch


def numpy_generator(seed: int, purpose: str, *position: int) -> np.random.Generator:
    """Returns a NumPy generator for one purpose at one position of the run.

    Args:
        seed: The recipe's seed.
        purpose: Such as ``order`` or ``mixup``; different purposes are independent.
        *position: Epoch, step, process; each at least 0.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(zlib.crc32(purpose.encode()), *position)))


def torch_seed(seed: int, purpose: str, *position: int) -> int:
    """Returns a seed for torch, with the arguments of ``numpy_generator``."""
    return int(numpy_generator(seed, purpose, *position).integers(2**62))


def torch_generator(seed: int, purpose: str, *position: int) -> torch.Generator:
    """Returns a torch generator on the CPU, with the arguments of ``numpy_generator``."""
    return torch.Generator().manual_seed(torch_seed(seed, purpose, *position))


@contextlib.contextmanager
def fork_random_state(device: torch.device) -> Iterator[None]:
    """Restores the global random state of torch after the block, on the CPU and on the device."""
    devices = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield


def seed_dropout(device: torch.device, seed: int) -> None:
    """Sets the generators that dropout draws from; only inside ``fork_random_state``."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
