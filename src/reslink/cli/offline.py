"""``--offline``: a promise that this process opens no connection, held by the interpreter's audit events."""

from __future__ import annotations

import sys

from reslink.errors import UsageError

_REFUSED = frozenset({"socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostbyname"})
_state = {"hooked": False, "offline": False}


def refuse_network(offline: bool) -> None:
    """Refuses every connection and name look-up of this process from now on, or allows them again.

    An audit hook (PEP 578) cannot be removed, so one hook is added at the first use and then switched.

    Args:
        offline: Whether connections are refused.
    """
    if offline and not _state["hooked"]:
        sys.addaudithook(_refuse)
        _state["hooked"] = True
    _state["offline"] = offline


def _refuse(event: str, _: tuple[object, ...]) -> None:
    if _state["offline"] and event in _REFUSED:
        raise UsageError(
            f"Something asked for the network ({event})",
            "With --offline no connection is opened",
            "Leave out --offline, or report this: no verb of reslink needs the network",
        )
