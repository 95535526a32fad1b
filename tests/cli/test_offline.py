"""``--offline`` blocks connections and name lookups."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from reslink.cli.main import app
from reslink.cli.offline import allow_loopback, block_network
from reslink.errors import UsageError


@pytest.fixture(autouse=True)
def allow_again() -> object:
    yield
    block_network(False)


def test_a_connection_is_refused_and_allowed_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        block_network(True)
        with pytest.raises(UsageError, match="network connection was attempted"):
            socket.create_connection(server.getsockname(), timeout=1)
        block_network(False)
        socket.create_connection(server.getsockname(), timeout=1).close()


def test_a_name_lookup_is_refused() -> None:
    block_network(True)
    with pytest.raises(UsageError, match=r"socket\.getaddrinfo"):
        socket.getaddrinfo("localhost", 80)


def test_commands_accept_offline() -> None:
    done = CliRunner().invoke(app, ["info", "--json", "--offline"])
    assert done.exit_code == 0, done.stderr


def test_loopback_is_allowed_to_a_command_that_needs_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as named, socket.socket() as other:
        block_network(True)
        allow_loopback()
        socket.create_connection(server.getsockname(), timeout=1).close()
        socket.getaddrinfo("localhost", 80)
        with pytest.raises(FileNotFoundError):
            named.connect(str(tmp_path / "none"))
        for host in ("10.0.0.1", "127.evil.example", "::ffff:10.0.0.1"):
            with pytest.raises(UsageError, match=r"socket\.getaddrinfo"):
                socket.getaddrinfo(host, 80)
        with pytest.raises(UsageError, match=r"socket\.connect"):
            other.connect(("192.0.2.1", 80))
        block_network(True)
        with pytest.raises(UsageError, match="network connection was attempted"):
            socket.create_connection(server.getsockname(), timeout=1)
