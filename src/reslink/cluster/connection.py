"""The connection to a Ray cluster, and what it must fulfill before anything is sent there."""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final

from reslink.cores import available_cores
from reslink.errors import UsageError
from reslink.files import optional_import

LOCAL: Final = "ray"
"""The address that starts a cluster on this machine."""

_ADDRESS: Final = re.compile(r"(?:ray://)?(?P<host>\[[0-9a-fA-F:]+\]|[\w.-]+):(?P<port>\d{1,5})", re.ASCII)
_OBJECT_STORE_BYTES: Final = 100 * 2**20
"""Memory for objects of a cluster on this machine; tasks get paths and return counts."""


_STARTING: Final = "Initialization failure from server"
"""What a client of Ray raises if the server has just started."""

_SEVERAL_MACHINES: Final = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""The variable that allows a cluster of several machines."""

_WAITS: Final = (1.0, 2.0, 4.0)
"""Seconds before another attempt in that case, and where nothing listens yet."""

_CONNECT_SECONDS: Final = 10.0


@dataclass(frozen=True)
class ClusterAddress:
    """Where a cluster is.

    Attributes:
        text: ``ray``, ``ray://HOST:PORT`` or ``HOST:PORT``.
        is_loopback: Whether nothing leaves this machine.
    """

    text: str
    is_loopback: bool


def parse_address(text: str) -> ClusterAddress:
    """Returns the address that a user wrote.

    Args:
        text: ``ray`` to start a cluster on this machine; ``ray://HOST:PORT``, or the ``HOST:PORT`` of a cluster to which this
            machine belongs.

    Raises:
        UsageError: If it is none of these.
    """
    if text == LOCAL:
        return ClusterAddress(text, True)
    match = _ADDRESS.fullmatch(text)
    if match is None or not 0 < int(match["port"]) < 2**16:
        raise UsageError(
            f"{text!r} is not the address of a cluster",
            "--on takes ray, which starts a cluster on this machine, ray://HOST:PORT or HOST:PORT",
            "Use --on ray, or the address that 'ray start --head' printed",
        )
    return ClusterAddress(text, _is_loopback(match["host"].strip("[]")))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextmanager
def connect(address: ClusterAddress) -> Iterator[None]:
    """Connects this process to a cluster while the block runs. A cluster that this call started ends with the block.

    Usage statistics and the dashboard are off. A cluster on this machine listens on 127.0.0.1 only, and takes no task without
    the random token of this process.

    Args:
        address: The cluster.

    Raises:
        UsageError: If Ray is not installed, the cluster cannot be reached, or it is not on this machine and
            ``RAY_AUTH_MODE=token`` is not set.
    """
    check_token(address)
    if address.text != LOCAL:
        _check_answer(address)
    with _variables(address):
        ray: Any = optional_import("ray", "ray")
        _start(ray, address)
        try:
            _check_nodes(ray, address)
            yield
        finally:
            ray.shutdown()


@contextmanager
def _variables(address: ClusterAddress) -> Iterator[None]:
    """Sets the variables that Ray reads while the block runs."""
    own: dict[str, str] = {}
    if address.is_loopback:  # without it, Ray listens on the address of a network card
        own[_SEVERAL_MACHINES] = "0"
    if address.text == LOCAL:
        own |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": _token()}
    before = {name: os.environ.get(name) for name in own}
    os.environ |= own
    reread_variables()
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            os.environ |= {} if value is None else {name: value}
        reread_variables()


def reread_variables() -> None:
    """Makes Ray read its variables again if it was imported before; it keeps those of its import, without a public way out."""
    raylet: Any = sys.modules.get("ray._raylet")
    constants: Any = sys.modules.get("ray._private.ray_constants")
    if raylet is not None and constants is not None:
        raylet.Config.initialize("")
        raylet.AuthenticationTokenLoader.instance().reset_cache()
        constants.ENABLE_RAY_CLUSTER = constants.env_bool(_SEVERAL_MACHINES, not constants.IS_WINDOWS_OR_OSX)


@cache
def _token() -> str:
    """Returns the random token of this process; Ray reads it once."""
    return secrets.token_hex(32)


def _check_answer(address: ClusterAddress) -> None:
    """Checks that something listens at an address; Ray itself tries for minutes.

    Raises:
        UsageError: If nothing does.
    """
    host, _, port = address.text.removeprefix("ray://").rpartition(":")
    for wait in (*_WAITS, None):
        try:
            with socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS):
                return
        except OSError as error:
            if wait is None or not isinstance(error, ConnectionRefusedError):
                raise UsageError(
                    f"Nothing answers at {address.text}: {error.strerror or error}",
                    "--on takes the address of a running cluster: HOST:PORT of its head, usually with port 6379, or "
                    "ray://HOST:PORT, usually with port 10001",
                    "Check the address, the firewall, and 'ray status' on the head",
                ) from error
            time.sleep(wait)


def _start(ray: Any, address: ClusterAddress) -> None:
    try:
        _init(ray, _options(address))
    except Exception as error:  # Ray raises Exception itself, for a node that starts too slowly
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(
            f"The cluster {address.text} cannot be used: {reason}",
            "A running cluster must have the same versions of Ray and Python as this machine",
            "Check it with 'ray status'; with --on ray, run the same command again when the machine is less busy",
        ) from error


def _check_nodes(ray: Any, address: ClusterAddress) -> None:
    """Checks that a cluster with other machines behind an address of this machine, such as a tunnel, is used with a token."""
    if not all(_is_loopback(node["NodeManagerAddress"]) for node in ray.nodes() if node["Alive"]):
        check_token(replace(address, is_loopback=False))


def _init(ray: Any, options: dict[str, Any]) -> Any:
    for wait in _WAITS:
        try:
            return ray.init(**options)
        except ConnectionAbortedError as error:
            if _STARTING not in str(error):
                raise
            time.sleep(wait)
    return ray.init(**options)


def check_token(address: ClusterAddress) -> None:
    """Checks that a cluster on another machine is used with a token.

    Raises:
        UsageError: If ``RAY_AUTH_MODE`` is not ``token``.
    """
    if not address.is_loopback and os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        raise UsageError(
            f"The cluster {address.text} is not only on this machine, and RAY_AUTH_MODE is not 'token'",
            "Without a token, everyone who reaches the cluster can run programs on it and read its data",
            "Start the cluster with RAY_AUTH_MODE=token, set it here too, and give both the same RAY_AUTH_TOKEN_PATH",
        )


def _options(address: ClusterAddress) -> dict[str, Any]:
    quiet = {"log_to_driver": False, "configure_logging": False}
    if address.text != LOCAL:
        return {"address": address.text, **quiet}
    limits = {"num_cpus": available_cores(), "object_store_memory": _OBJECT_STORE_BYTES}
    return {"address": "local", "include_dashboard": False, **limits, **quiet}
