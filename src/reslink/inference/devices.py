"""Selection of the torch device."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from reslink.errors import UsageError, suggest

if TYPE_CHECKING:
    import torch

_DRIVERS = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd")
"""Files that exist if a GPU driver for torch's CUDA builds is loaded: NVIDIA, WSL, AMD."""


def pick_device(name: str = "auto") -> torch.device:
    """Returns the torch device for a name. Imports torch.

    Args:
        name: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``. ``auto`` selects CUDA if available, otherwise the CPU;
            it never selects ``mps``.

    Raises:
        UsageError: If the name is unknown, or the device is not available.
    """
    check_device_name(name)
    import torch

    options = _available()
    cuda = "cuda:0" if "cuda:0" in options else None
    chosen = {"auto": cuda or "cpu", "cuda": cuda}.get(name, name)
    if chosen in options:
        return torch.device(chosen)
    raise UsageError(
        f"The device {name!r} is not available here",
        f"The available devices are {', '.join(['auto', *options])}",
        "Use --device auto",
    )


def check_device_name(name: str) -> None:
    """Checks the name of a device without torch.

    Raises:
        UsageError: If there is no device of this kind.
    """
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name):
        raise UsageError(
            f"There is no device {name!r}",
            "A device is auto, cpu, cuda, cuda:N with the number of a GPU, or mps",
            suggest(name, ("auto", "cpu", "cuda", "mps")),
        )


def is_cpu(name: str) -> bool:
    """Returns whether a device name selects the CPU. Imports torch only if that is necessary to decide.

    Args:
        name: As for :func:`pick_device`.

    Raises:
        UsageError: As for :func:`pick_device`.
    """
    if name == "cpu" or (name == "auto" and not any(Path(driver).exists() for driver in _DRIVERS)):
        return True
    return pick_device(name).type == "cpu"


def _available() -> list[str]:
    import torch

    cuda = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return ["cpu", *cuda, *(["mps"] if torch.backends.mps.is_available() else [])]
