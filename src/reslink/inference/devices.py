"""Which device a network runs on."""

from __future__ import annotations

import torch

from reslink.errors import UsageError, nearest


def pick_device(name: str = "auto") -> torch.device:
    """Returns the device of a name.

    Args:
        name: ``auto`` (CUDA where there is one, else the CPU; Apple's ``mps`` only where it is asked for by name),
            ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Raises:
        UsageError: If the name is unknown, or this machine or this build of torch has no such device.
    """
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


def _available() -> list[str]:
    cuda = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return ["cpu", *cuda, *(["mps"] if torch.backends.mps.is_available() else [])]
