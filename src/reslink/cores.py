"""The processor cores that this process may use, and worker processes for them."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor


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


def worker_pool(workers: int) -> ProcessPoolExecutor:
    """Returns a pool of new processes, which start with its first job. They ignore Ctrl-C and end with this process."""
    import multiprocessing  # both are slow to import
    from concurrent.futures import ProcessPoolExecutor

    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker)


def _start_worker() -> None:
    import multiprocessing

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_with_parent, args=(parent.sentinel,), daemon=True).start()


def _exit_with_parent(sentinel: int) -> None:
    from multiprocessing import connection

    connection.wait([sentinel])
    os._exit(1)
