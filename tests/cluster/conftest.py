"""A real cluster of two nodes on this machine, with one core each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from reslink.cluster.connection import connect, parse_address, reread_variables

HERE = Path(__file__).resolve().parent
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "ab" * 32,
    "PYTHONPATH": os.pathsep.join([str(HERE.parents[1] / "src"), str(HERE)]),
}


def two_nodes(**options: Any) -> Any:
    """Starts the nodes; one gives up if its Python processes need more than 15 s to start, as on a busy machine."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "include_dashboard": False, "include_log_monitor": False, "no_monitor": True}
    for attempts_left in (2, 1, 0):
        nodes = Cluster()
        try:
            nodes.add_node(**head, **options)
            nodes.add_node(num_cpus=1, **options)
        except Exception as error:
            nodes.shutdown()
            if not attempts_left or "timed out" not in str(error):
                raise
        else:
            break
    return nodes


@pytest.fixture(scope="session")
def ray_installed() -> None:
    if find_spec("ray") is None and os.environ.get("CI") != "true":
        pytest.skip("ray is not installed: pip install -c constraints.txt 'ray[client]'")
    assert find_spec("ray") is not None, "CI needs ray, which make test installs"


@pytest.fixture(scope="session")
def cluster(ray_installed: None) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        patch.syspath_prepend(str(HERE))
        reread_variables()
        nodes = two_nodes()
        yield nodes
        nodes.shutdown()


@pytest.fixture
def in_thread() -> Callable[..., AbstractContextManager[None]]:
    """Calls a function in a thread while a block runs, and raises at the end of the block what it raised."""

    @contextmanager
    def run(function: Callable[..., object], *arguments: object) -> Iterator[None]:
        with ThreadPoolExecutor(1) as pool:
            result = pool.submit(function, *arguments)
            yield
            result.result()

    return run


@pytest.fixture
def connected(cluster: Any) -> Iterator[Any]:
    """The cluster, to which this process is connected."""
    with connect(parse_address(cluster.address)):
        yield cluster
