"""Limits of the DICOM node on its peers."""

from __future__ import annotations

from dataclasses import dataclass

from reslink.imaging.limits import MAX_FILE_BYTES, MIB


@dataclass(frozen=True)
class AssociationLimits:
    """Limits of the node on its peers.

    Attributes:
        associations: Number of associations at a time.
        connections: Number of connections without an association at a time. A further one closes the oldest of them.
        request_seconds: Time in which a connection must request its association. An association that was silent for longer
            gives its slot up when all are in use.
        idle_seconds: Time in which each PDU of an association must arrive.
        pdu_bytes: Largest PDU.
        command_bytes: Largest command set.
        object_bytes: Largest object; a larger one is refused, and the association of one twice as large is aborted.
        buffer_bytes: Memory for the objects of all associations. When it is used up, only objects of up to an equal share of
            it are received.
        bytes_per_second: Lowest rate at which an object that takes more than a minute must arrive.
    """

    associations: int = 16
    connections: int = 32
    request_seconds: float = 10.0
    idle_seconds: float = 60.0
    pdu_bytes: int = MIB
    command_bytes: int = 1 << 16
    object_bytes: int = MAX_FILE_BYTES
    buffer_bytes: int = 2 * MAX_FILE_BYTES
    bytes_per_second: int = 1024
