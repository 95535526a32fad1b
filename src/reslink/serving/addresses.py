"""Addresses: which of them only this machine can reach, and how an archive is named; imports nothing of any extra."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from reslink.errors import UsageError


@dataclass(frozen=True)
class Peer:
    """An application entity somewhere else.

    Attributes:
        title: Its AE title.
        host: Name or address.
        port: TCP port.
    """

    title: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Peer:
        """Reads ``AET@host:port``.

        Raises:
            UsageError: If it is written otherwise, or the title is longer than 16 characters.
        """
        title, at, place = text.partition("@")
        host, colon, port = place.rpartition(":")
        if not (at and colon and title.strip() and host and port.isdigit() and 0 < int(port) < 65536 and len(title) <= 16):
            raise UsageError(
                f"{text!r} does not name an archive",
                "It is written AET@host:port; an AE title has 1 to 16 characters",
                "Write for example ORTHANC@127.0.0.1:4242",
            )
        return cls(title, host.strip("[]"), int(port))


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address; a name that merely begins like one is not."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
