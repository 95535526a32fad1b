"""Selection of the torch device."""

from __future__ import annotations

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
    import torch

    options = _available()
    cuda = "cuda:0" if "cuda:0" in options else None
    chosen = {"auto": cuda or "cpu", "cuda": cuda}.get(name, name)
    if chosen in options:
        return torch.device(chosen)
    exists = name.split(":")[0] in ("cuda", "mps")
    raise UsageError(
        f"The device {name!r} is not available here" if exists else f"There is no device {name!r}",
        f"The available devices are {', '.join(['auto', *options])}",
        "Use --device auto" if exists else suggest(name, ["auto", *options]),
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
