"""Device, precision and processes, by Hugging Face Accelerate; and the promise that two runs give the same result."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from reslink.errors import UsageError
from reslink.training.recipe.schema import TrainerSettings

if TYPE_CHECKING:
    from accelerate import Accelerator


def make_accelerator(settings: TrainerSettings) -> Accelerator:
    """Returns the accelerator of a run; under ``torchrun`` it joins the other processes.

    Args:
        settings: The section ``trainer`` of the recipe.

    Raises:
        UsageError: If the device is not there, or the batch cannot be shared among the processes.
    """
    from accelerate import Accelerator  # two seconds that `reslink predict` need not wait for
    from accelerate.state import AcceleratorState

    _check_device(settings.device)
    AcceleratorState._reset_state()  # Accelerate keeps one precision for the life of a process; each run states its own
    cpu = settings.device == "cpu" or (settings.device == "auto" and not _has_accelerator())
    accelerator = Accelerator(cpu=cpu, mixed_precision="bf16" if uses_bf16(settings, cpu=cpu) else "no")
    if settings.batch_size < 2 * accelerator.num_processes:
        raise UsageError(
            f"trainer.batch_size is {settings.batch_size} for {accelerator.num_processes} processes",
            "Each process needs at least two images a step",
            f"Set trainer.batch_size to {2 * accelerator.num_processes} or more",
        )
    return accelerator


def uses_bf16(settings: TrainerSettings, *, cpu: bool) -> bool:
    """Returns whether the network computes in bfloat16; with ``auto`` where the processor has instructions for it."""
    if settings.precision != "auto":
        return settings.precision == "bf16"
    if cpu:
        found: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
        return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def _has_accelerator() -> bool:
    return torch.cuda.is_available() or torch.backends.mps.is_available()


def _check_device(name: str) -> None:
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(name, True):
        raise UsageError(
            f"trainer.device is {name}, and this machine (or this build of torch) has none",
            "Devices here: " + ", ".join(["cpu", *(device for device, found in there.items() if found)]),
            "Set trainer.device=auto, or install a build of torch for the device",
        )


@contextlib.contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Refuses operations whose result may differ between two runs, inside the block.

    Args:
        wanted: Whether to; if not, nothing changes.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    if wanted:
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = benchmark
