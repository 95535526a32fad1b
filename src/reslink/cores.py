"""The processor cores that this process may use."""

from __future__ import annotations

import os
from pathlib import Path


def available_cores() -> int:
    """Returns the number of processor cores that this process may use; a container may have fewer than its machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, cpu_limit() or cores)


def cpu_limit(groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int | None:
    """Returns the limit on processor time of this process in whole cores, at least 1; None if it has none.

    Args:
        groups: Where the control groups of Linux (version 2) are.
        own: File that names the group of this process.
    """
    try:
        [group] = [line[3:] for line in own.read_text().splitlines() if line.startswith("0::")]
        quota, period = (groups / group.lstrip("/") / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else max(1, int(quota) // int(period))
