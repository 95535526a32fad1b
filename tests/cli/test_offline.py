"""``--offline`` holds, and it would notice a connection."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from reslink.cli.offline import refuse_network
from reslink.errors import UsageError


@pytest.fixture(autouse=True)
def allow_again() -> object:
    yield
    refuse_network(False)


def test_a_connection_is_refused_and_allowed_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        refuse_network(True)
        with pytest.raises(UsageError, match="asked for the network"):
            socket.create_connection(server.getsockname(), timeout=1)
        refuse_network(False)
        socket.create_connection(server.getsockname(), timeout=1).close()


def test_a_name_lookup_is_refused() -> None:
    refuse_network(True)
    with pytest.raises(UsageError, match=r"socket\.getaddrinfo"):
        socket.getaddrinfo("localhost", 80)


def test_every_verb_takes_offline() -> None:
    program = "import sys; from reslink.cli.main import main; main(['info', '--json', '--offline'])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
