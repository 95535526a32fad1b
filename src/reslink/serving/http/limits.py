"""Size, time and concurrency limits of the HTTP service."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Limits of the service. A request beyond one gets a 4xx response, or 503 for a limit on all requests together.

    Attributes:
        body_bytes: Size of one request body. The image readers have their own pixel limits (``imaging/limits.py``).
        files: Files of one request, and members of one archive.
        unpacked_bytes: Total size of the members of one archive.
        slices: Slices of one request.
        view_pixels: Pixels of one ``/v1/view`` response; larger volumes are subsampled.
        header_seconds: Time to receive a request header, from the connection or its first byte.
        body_seconds: Time to receive a request body, and for the client to read each megabyte of the response.
        answer_seconds: Time to process a received request.
        concurrent_requests: Requests processed at a time.
        held_bytes: Memory for the bodies and preprocessed images of all active requests.
        batch_size: Slices in one network batch.
        batch_wait_seconds: How long a network waits for more slices after the first one of a batch.
    """

    body_bytes: int = 256 * MIB
    files: int = 1024
    unpacked_bytes: int = 256 * MIB
    slices: int = 2048
    view_pixels: int = 16 * MIB
    header_seconds: float = 10.0
    body_seconds: float = 60.0
    answer_seconds: float = 60.0
    concurrent_requests: int = 64
    held_bytes: int = 1024 * MIB
    batch_size: int = 16
    batch_wait_seconds: float = 0.003
