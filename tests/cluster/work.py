"""Work for nodes of a test: each call leaves a file that names the shard, its process and its node."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from reslink.cluster.cache import fill_part
from reslink.cluster.evaluation import run_batches
from reslink.cluster.shards import Part
from reslink.errors import UsageError


def calls(log: Path, index: int) -> list[Path]:
    return sorted(log.glob(f"{index}.*"))


def wait_for(condition: Callable[[], object]) -> None:
    """Waits until a condition holds."""
    ends = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < ends, "nothing happens"
        time.sleep(0.01)


def processes_of(task: str) -> list[psutil.Process]:
    """The processes that run a task or an actor, by the title that Ray gives them."""
    names = ((process, " ".join(process.info["cmdline"] or ())) for process in psutil.process_iter(["cmdline"]))
    return [process for process, name in names if name.startswith(f"ray::{task}")]


def plain(content: dict[str, Any]) -> tuple[bytes, int]:
    """Waits while a file called hold is there, unless the shard is among the first ones."""
    log, index = Path(content["log"]), content["index"]
    (log / f"{index}.{os.getppid()}.{os.getpid()}").touch()
    while index >= content.get("free", 10**9) and (log / "hold").exists():
        time.sleep(0.05)
    return f"{index}\n".encode(), index % 2


def needs_storage(content: dict[str, Any]) -> Part:
    """Is final once there is a file called up."""
    log, index = Path(content["log"]), content["index"]
    (log / f"{index}.{os.getppid()}.{os.getpid()}.{time.monotonic_ns()}").touch()
    is_up = index > 0 or (log / "up").exists()
    return Part(f"{index} {is_up}\n".encode(), 1 - is_up, is_up)


def dies_once(content: dict[str, Any]) -> tuple[bytes, int]:
    """Is killed at the first call for shard 2."""
    result = plain(content)
    if content["index"] == 2 and len(calls(Path(content["log"]), 2)) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return result


def dies(content: dict[str, Any]) -> tuple[bytes, int]:
    os.kill(os.getpid(), signal.SIGKILL)
    return plain(content)


def refuses(content: dict[str, Any]) -> tuple[bytes, int]:
    raise UsageError(f"Shard {content['index']} is refused", "Allowed is nothing", "Do nothing")


def fails(content: dict[str, Any]) -> tuple[bytes, int]:
    raise KeyError("a bug")


def die_once(flag: Path) -> None:
    """Kills this process at the first call."""
    if not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def fill_dies_once(part: Any) -> tuple[bytes, int]:
    die_once(Path(part.folder).parent / "decoding died")
    return fill_part(part)


def network_dies_once(batches: Any) -> tuple[bytes, int]:
    die_once(batches.rows.files[0].parents[4] / "network died")
    return run_batches(batches)
