"""Address of a remote DICOM application entity (AE title, host and port)."""

from __future__ import annotations

from dataclasses import dataclass

from reslink.errors import UsageError


@dataclass(frozen=True)
class Peer:
    """A remote application entity.

    Attributes:
        title: AE title.
        host: Host name or address.
        port: TCP port.
    """

    title: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Peer:
        """Parses ``AET@host:port``.

        Raises:
            UsageError: If the text has another form, or the title is longer than 16 characters.
        """
        title, at, address = text.partition("@")
        host, colon, port = address.rpartition(":")
        if not (at and colon and title.strip() and host and port.isdigit() and 0 < int(port) < 65536 and len(title) <= 16):
            raise UsageError(
                f"{text!r} is not the address of an archive",
                "An address has the form AET@host:port; an AE title has 1 to 16 characters",
                "Use an address such as ORTHANC@127.0.0.1:4242",
            )
        return cls(title, host.strip("[]"), int(port))
