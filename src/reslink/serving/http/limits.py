"""What one request, and all of them together, may take."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Limits of the service; what goes beyond gets a 4xx answer, or 503 where it is the sum of all requests.

    Attributes:
        body_bytes: Of one request; the readers have their own limits on pixels (``imaging/guard.py``).
        files: Parts of one request, and members of one archive.
        unpacked_bytes: Of all members of one archive together.
        slices: Of one request.
        shown_pixels: Of one answer of ``/v1/view``; larger volumes are thinned out.
        header_seconds: From the first byte of a request, or the connection, to the end of its header.
        body_seconds: From there to the end of its body; also for each megabyte of the answer that the client takes.
        answer_seconds: From there to the answer.
        waiting: Requests under way at a time.
        held_bytes: Of all bodies under way at a time, and of what was prepared of them for the networks.
        batch: Slices that a network sees at a time.
        gather_seconds: How long a network waits for more slices once it has one.
    """

    body_bytes: int = 256 * MIB
    files: int = 1024
    unpacked_bytes: int = 256 * MIB
    slices: int = 2048
    shown_pixels: int = 16 * MIB
    header_seconds: float = 10.0
    body_seconds: float = 60.0
    answer_seconds: float = 60.0
    waiting: int = 64
    held_bytes: int = 1024 * MIB
    batch: int = 16
    gather_seconds: float = 0.003
