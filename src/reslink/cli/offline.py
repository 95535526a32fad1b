"""``--offline``: blocks the network connections of this process through the interpreter's audit events."""

from __future__ import annotations

import sys

from reslink.errors import UsageError
from reslink.remote_files import refuse_remote

_BLOCKED = frozenset({"socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostbyname"})
_state = {"hooked": False, "offline": False}


def block_network(offline: bool) -> None:
    """Blocks, or allows again, every connection and name lookup of this process.

    Remote paths are refused by name, before any connection is attempted.

    An audit hook (PEP 578) cannot be removed, so one hook is added on first use and then switched on and off.

    Args:
        offline: Whether connections are blocked.
    """
    if offline and not _state["hooked"]:
        sys.addaudithook(_block)
        _state["hooked"] = True
    _state["offline"] = offline
    refuse_remote(offline)


def check_sockets(option: str, reason: str) -> None:
    """Checks that an option which needs a socket on this machine was not given with ``--offline``.

    Raises:
        UsageError: If it was.
    """
    if _state["offline"]:
        raise UsageError(
            f"{option} and --offline were both given",
            f"{reason}, and --offline allows none",
            f"Remove {option} or --offline",
        )


def _block(event: str, _: tuple[object, ...]) -> None:
    if _state["offline"] and event in _BLOCKED:
        raise UsageError(
            f"A network connection was attempted ({event})",
            "--offline allows no connection",
            "Remove --offline if this command must use the network, or report this as a bug",
        )
