"""Which device a network runs on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from reslink.errors import UsageError, nearest

if TYPE_CHECKING:
    import torch

_DRIVERS = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd")
"""Files that are there where a driver that torch's CUDA builds use is loaded: NVIDIA, Windows' WSL, AMD."""


def pick_device(name: str = "auto") -> torch.device:
    """Returns the device of a name. Imports torch.

    Args:
        name: ``auto`` (CUDA where there is one, else the CPU; Apple's ``mps`` only where it is asked for by name),
            ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Raises:
        UsageError: If the name is unknown, or this machine or this build of torch has no such device.
    """
    import torch

    options = _available()
    cuda = "cuda:0" if "cuda:0" in options else None
    chosen = {"auto": cuda or "cpu", "cuda": cuda}.get(name, name)
    if chosen in options:
        return torch.device(chosen)
    known = name.split(":")[0] in ("cuda", "mps")
    raise UsageError(
        f"The device {name!r} is not available here" if known else f"There is no device {name!r}",
        f"This machine and this build of torch offer {', '.join(['auto', *options])}",
        "Use --device auto" if known else nearest(name, ["auto", *options]),
    )


def is_cpu(name: str) -> bool:
    """Whether a name stands for the CPU; imports torch only where that cannot be known without it.

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
