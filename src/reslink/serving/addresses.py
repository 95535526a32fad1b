"""Checks of network addresses; imports no optional package."""

from __future__ import annotations

import ipaddress


def is_loopback(host: str) -> bool:
    """Returns whether an address is reachable from this machine only. A host name is loopback only if it is ``localhost``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
