"""``--offline``: blocks the network connections of this process through the interpreter's audit events."""

from __future__ import annotations

import re
import sys

from reslink.errors import UsageError
from reslink.remote_paths import refuse_remote

_BLOCKED = frozenset({"socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostbyname"})
_LOOPBACK = re.compile(r"127(\.\d{1,3}){3}|::1|localhost")
_state = {"hooked": False, "offline": False, "loopback": False}


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
    _state["offline"], _state["loopback"] = offline, False
    refuse_remote(offline)


def allow_loopback() -> None:
    """Lets a command that is offline connect to programs on this machine."""
    _state["loopback"] = True


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


def _is_loopback(arguments: tuple[object, ...]) -> bool:
    """Returns whether the arguments of an event name this machine, or a socket in its file system."""
    family = getattr(arguments[0], "family", None)  # of a socket; the events of a name lookup have none
    target = arguments[0] if family is None else arguments[1]
    host = target[0] if isinstance(target, tuple) else target
    return getattr(family, "name", "") == "AF_UNIX" or _LOOPBACK.fullmatch(str(host)) is not None


def _block(event: str, arguments: tuple[object, ...]) -> None:
    if _state["offline"] and event in _BLOCKED and not (_state["loopback"] and _is_loopback(arguments)):
        raise UsageError(
            f"A network connection was attempted ({event})",
            "--offline allows no connection",
            "Remove --offline if this command must use the network, or report this as a bug",
        )
