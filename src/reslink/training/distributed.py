"""Device, precision and processes with Hugging Face Accelerate, and deterministic algorithms."""

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
    """Returns the accelerator of a run; under ``torchrun`` it connects the processes.

    Args:
        settings: The section ``trainer`` of the recipe.

    Raises:
        UsageError: If the device is not available, or the batch is too small for the processes.
    """
    from accelerate import Accelerator  # this import takes two seconds, which `reslink predict` does not need
    from accelerate.state import AcceleratorState

    _check_device(settings.device)
    AcceleratorState._reset_state()  # Accelerate keeps one precision per process, but each run has its own
    cpu = settings.device == "cpu" or (settings.device == "auto" and not _has_accelerator())
    accelerator = Accelerator(cpu=cpu, mixed_precision="bf16" if uses_bf16(settings, cpu=cpu) else "no")
    if settings.batch_size < 2 * accelerator.num_processes:
        raise UsageError(
            f"trainer.batch_size is {settings.batch_size} for {accelerator.num_processes} processes",
            "Each process needs at least two images per step",
            f"Set trainer.batch_size to {2 * accelerator.num_processes} or more",
        )
    return accelerator


def uses_bf16(settings: TrainerSettings, *, cpu: bool) -> bool:
    """Returns whether the network computes in bfloat16; ``auto`` means if the processor supports it."""
    if settings.precision != "auto":
        return settings.precision == "bf16"
    if cpu:
        capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def _has_accelerator() -> bool:
    return torch.cuda.is_available() or torch.backends.mps.is_available()


def _check_device(name: str) -> None:
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(name, True):
        raise UsageError(
            f"trainer.device is {name}, which this machine (or this build of torch) does not have",
            "Available devices: " + ", ".join(["cpu", *(device for device, present in available.items() if present)]),
            "Set trainer.device=auto, or install a build of torch for the device",
        )


@contextlib.contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Forbids operations with non-deterministic results inside the block.

    Args:
        wanted: If false, nothing changes.
    """
    before = torch.get_deterministic_debug_mode()
    benchmark = torch.backends.cudnn.benchmark
    if wanted:
        torch.set_deterministic_debug_mode("error")  # use_deterministic_algorithms does the same and imports the whole compiler
        torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)
        torch.backends.cudnn.benchmark = benchmark
