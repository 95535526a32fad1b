"""What the nodes of a cluster have: cores, memory, reslink, and the storage that a job needs."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import reslink
from reslink.files import optional_import

_TIMEOUT: Final = 120
"""Seconds in which a node must answer; the first process of a node may take half a minute."""


@dataclass(frozen=True)
class NodeState:
    """A node of the connected cluster.

    Attributes:
        address: Its address.
        cores: Number of cores for tasks.
        memory: Bytes of memory for tasks.
        version: Its version of reslink; empty if the node did not answer.
        has_folder: Whether it sees the folder.
        error: Why it did not answer; empty if it did.
    """

    address: str
    cores: int
    memory: float
    version: str = ""
    has_folder: bool = False
    error: str = ""


def inspect_nodes(folder: Path) -> list[NodeState]:
    """Returns the nodes of the connected cluster, each of which is asked once.

    Args:
        folder: An existing folder that this process may write to; a node has it if it sees a file that is made there.
    """
    ray: Any = optional_import("ray", "ray")
    affinity: Any = optional_import("ray.util.scheduling_strategies", "ray").NodeAffinitySchedulingStrategy
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".reslink-doctor-") as stream:
        answers = []
        for node in ray.nodes():
            if node["Alive"]:
                place = affinity(node["NodeID"], soft=False)
                task = ray.remote(_look).options(num_cpus=0, max_retries=0, scheduling_strategy=place)
                answers.append((node, task.remote(str(Path(stream.name).absolute()))))
        return [_state(ray, node, answer) for node, answer in answers]


def _look(file: str) -> tuple[str, bool]:
    """Runs on a node: returns the version of reslink, and whether the file is there."""
    return reslink.__version__, Path(file).exists()


def _state(ray: Any, node: dict[str, Any], answer: Any) -> NodeState:
    resources = node["Resources"]
    known = (str(node["NodeManagerAddress"]), int(resources.get("CPU", 0)), float(resources.get("memory", 0)))
    try:
        version, has_folder = ray.get(answer, timeout=_TIMEOUT)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        return NodeState(*known, error=(str(cause).strip() or type(cause).__name__).splitlines()[-1])
    return NodeState(*known, version, has_folder)
