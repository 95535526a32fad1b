"""What ``/metrics`` tells Prometheus; never a file name, a class or a probability."""

from __future__ import annotations

import os
from typing import Any, Final

from reslink.files import optional_import

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SIZES: Final = (1, 2, 4, 8, 16, 32)


class Metrics:
    """Counts of one process of the service; each has its number as the label ``worker``."""

    def __init__(self) -> None:
        client: Any = optional_import("prometheus_client", "serve")
        self._client = client
        self._registry = client.CollectorRegistry()
        client.ProcessCollector(registry=self._registry)
        kept = {"registry": self._registry}
        self._requests = client.Counter("reslink_requests", "Requests answered", ("worker", "route", "status"), **kept)
        self._seconds = client.Histogram(
            "reslink_request_seconds", "Time to the answer", ("worker", "route"), buckets=_SECONDS, **kept
        )
        self._batch = client.Histogram(
            "reslink_batch_slices", "Slices that a network saw at a time", ("worker", "model"), buckets=_SIZES, **kept
        )
        self._network = client.Histogram(
            "reslink_batch_seconds", "Time of a network for a batch", ("worker", "model"), buckets=_SECONDS, **kept
        )
        self._under_way = client.Gauge("reslink_requests_under_way", "Uploads under way", ("worker",), **kept)
        self._held = client.Gauge("reslink_held_bytes", "Bytes of uploads in memory", ("worker",), **kept)
        self._files = client.Counter("reslink_files", "Files by what came of them", ("worker", "result"), **kept)
        self._worker = str(os.getpid())

    def request(self, route: str, status: int, seconds: float) -> None:
        """Counts a request."""
        self._requests.labels(self._worker, route, str(status)).inc()
        self._seconds.labels(self._worker, route).observe(seconds)

    def batch(self, model: str, size: int, seconds: float) -> None:
        """Counts a batch."""
        self._batch.labels(self._worker, model).observe(size)
        self._network.labels(self._worker, model).observe(seconds)

    def file(self, result: str) -> None:
        """Counts a file: ``read`` or ``refused``."""
        self._files.labels(self._worker, result).inc()

    def load(self, under_way: int, held_bytes: int) -> None:
        """Says how much is under way."""
        self._under_way.labels(self._worker).set(under_way)
        self._held.labels(self._worker).set(held_bytes)

    def text(self) -> bytes:
        """Returns the answer of ``/metrics``."""
        found: bytes = self._client.generate_latest(self._registry)
        return found
