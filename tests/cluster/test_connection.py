"""Addresses of clusters, and what is refused before anything is sent there."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from reslink.cluster.connection import _check_answer, connect, parse_address
from reslink.errors import UsageError

LOCAL = """
import os, psutil, ray  # imported without the variables
from reslink.cores import available_cores
from reslink.cluster.connection import connect, parse_address
with connect(parse_address("ray")):
    import ray
    [node] = ray.nodes()
    assert node["NodeManagerAddress"] == "127.0.0.1", node
    assert ray.cluster_resources()["CPU"] == available_cores()
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert (os.environ["RAY_AUTH_MODE"], len(os.environ["RAY_AUTH_TOKEN"])) == ("token", 64)
    assert ray.get(ray.remote(lambda: os.environ["OMP_NUM_THREADS"]).remote()) == "1"
    children = psutil.Process().children(recursive=True)
    listening = {c.laddr.ip for child in children for c in child.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    assert listening <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}, listening
    assert listening
assert not ray.is_initialized()
with connect(parse_address("ray")):  # again in one process
    assert ray.get(ray.remote(lambda: 5).remote()) == 5
"""


@pytest.mark.parametrize(
    ("text", "is_loopback"),
    [
        ("ray", True),
        ("127.0.0.1:6379", True),
        ("ray://localhost:10001", True),
        ("ray://[::1]:10001", True),
        ("127.0.0.2:1", True),
        ("ray://head.example.org:10001", False),
        ("10.0.0.7:6379", False),
        ("127.evil.example:6379", False),
        ("localhost.example:6379", False),
    ],
)
def test_addresses(text: str, is_loopback: bool) -> None:
    assert parse_address(text).is_loopback == is_loopback


@pytest.mark.parametrize("text", ["", "Ray", "auto", "local", "ray://", "head", "head:0", "head:99999", "http://a:1", "a b:1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"is not the address of a cluster.*--on takes ray.*Use --on ray"):
        parse_address(text)


@pytest.mark.parametrize("mode", [None, "disabled", "k8s"])
def test_a_cluster_elsewhere_needs_a_token(mode: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    if mode:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    message = "10.0.0.7:6379 is not only on this machine, and RAY_AUTH_MODE is not 'token'.*Start the cluster with RAY_AUTH"
    with pytest.raises(UsageError, match=message), connect(parse_address("10.0.0.7:6379")):
        pass


@pytest.fixture
def variables_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restores the variables that a connection sets."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "RAY_USAGE_STATS_ENABLED"):
        monkeypatch.setenv(name, os.environ.get(name, ""))


@pytest.mark.usefixtures("variables_as_before")
def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(
        "reslink.files.metadata.requires", lambda name: [f'{name}[x]; extra == "all"', 'ray[client]>=2.60; extra == "ray"']
    )
    message = (
        r"The package 'ray' is not installed.*extra 'ray' of reslink.*Run: python -m pip install \"ray\[client\]>=2\.60\"\.$"
    )
    with pytest.raises(UsageError, match=message), connect(parse_address("ray")):
        pass


@pytest.fixture
def listening() -> Iterator[str]:
    """The address of a port on which something listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_nothing_answers_is_named(scheme: str, listening: str, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("reslink.cluster.connection.time.sleep", waits.append)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    message = rf"^Nothing answers at {scheme}127\.0\.0\.1:{port}: .*--on takes.*Check the address"
    with pytest.raises(UsageError, match=message), connect(parse_address(f"{scheme}127.0.0.1:{port}")):
        pass
    assert waits == [1.0, 2.0, 4.0]
    _check_answer(parse_address(f"{scheme}{listening}"))


@pytest.mark.usefixtures("variables_as_before")
@pytest.mark.parametrize(("error", "reason"), [(ConnectionError("no answer\nmore"), "no answer"), (Exception(), "Exception")])
def test_a_cluster_that_cannot_be_used_says_why(
    error: Exception, reason: str, listening: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**_: object) -> None:
        raise error

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init))
    message = rf"^The cluster {listening} cannot be used: {reason}\. A running cluster must have the same versions"
    with pytest.raises(UsageError, match=message), connect(parse_address(listening)):
        pass


STARTING = ConnectionAbortedError("Initialization failure from server:\nnot ready")


@pytest.mark.usefixtures("variables_as_before")
@pytest.mark.parametrize(
    ("errors", "attempts", "reason"),
    [
        ([STARTING, STARTING], 3, None),
        ([STARTING] * 5, 4, "Initialization failure from server"),
        ([ConnectionAbortedError("version mismatch")], 1, "version mismatch"),
    ],
)
def test_a_cluster_that_still_starts_is_tried_again(
    errors, attempts, reason, listening: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def init(*, address: str, **_: object) -> None:
        calls.append(address)
        if len(calls) <= len(errors):
            raise errors[len(calls) - 1]

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init, nodes=list, shutdown=lambda: calls.append("shutdown")))
    monkeypatch.setattr("reslink.cluster.connection.time.sleep", lambda _: None)
    if reason:
        with pytest.raises(UsageError, match=reason), connect(parse_address(f"ray://{listening}")):
            pass
    else:
        with connect(parse_address(f"ray://{listening}")):
            pass
        assert calls.pop() == "shutdown"
    assert calls == [f"ray://{listening}"] * attempts


@pytest.mark.slow
@pytest.mark.usefixtures("ray_installed")
def test_a_cluster_of_this_machine_listens_on_loopback_and_needs_a_token() -> None:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    variables["PYTHONPATH"] = str(Path(__file__).resolve().parents[2] / "src")
    done = subprocess.run([sys.executable, "-c", LOCAL], env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr


def test_the_variables_of_the_user_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "own")
    seen: list[str | None] = []
    fake = SimpleNamespace(
        init=lambda **_: seen.append(os.environ.get("RAY_AUTH_TOKEN")), nodes=lambda: [], shutdown=lambda: None
    )
    monkeypatch.setitem(sys.modules, "ray", fake)
    with connect(parse_address("ray")):
        assert os.environ["RAY_AUTH_MODE"] == "token"
    assert seen[0] not in (None, "own")
    assert (os.environ["RAY_AUTH_TOKEN"], os.environ.get("RAY_AUTH_MODE")) == ("own", None)


def test_a_tunnel_to_other_machines_needs_a_token(listening: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    ended: list[str] = []
    nodes = [{"NodeManagerAddress": host, "Alive": alive} for host, alive in (("127.0.0.1", True), ("10.0.0.8", True))]
    fake = SimpleNamespace(init=lambda **_: None, nodes=lambda: nodes, shutdown=lambda: ended.append("ended"))
    monkeypatch.setitem(sys.modules, "ray", fake)
    with pytest.raises(UsageError, match="is not only on this machine"), connect(parse_address(listening)):
        pass
    assert ended == ["ended"]
    nodes[1]["Alive"] = False
    with connect(parse_address(listening)):
        pass
