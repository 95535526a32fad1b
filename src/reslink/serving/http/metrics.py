"""Prometheus metrics of the service; never a file name, a class or a probability."""

from __future__ import annotations

import os
from typing import Any, Final

from reslink.files import optional_import

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SIZE_BUCKETS: Final = (1, 2, 4, 8, 16, 32)


class Metrics:
    """Metrics of one service process, with its process ID as the label ``worker``."""

    def __init__(self) -> None:
        client: Any = optional_import("prometheus_client", "serve")
        self._client = client
        self._registry = client.CollectorRegistry()
        client.ProcessCollector(registry=self._registry)
        options = {"registry": self._registry}
        self._requests = client.Counter("reslink_requests", "Completed requests", ("worker", "route", "status"), **options)
        self._seconds = client.Histogram(
            "reslink_request_seconds", "Duration of a request", ("worker", "route"), buckets=_SECONDS_BUCKETS, **options
        )
        self._batch = client.Histogram(
            "reslink_batch_slices", "Slices in a network batch", ("worker", "model"), buckets=_SIZE_BUCKETS, **options
        )
        self._network = client.Histogram(
            "reslink_batch_seconds", "Duration of a network batch", ("worker", "model"), buckets=_SECONDS_BUCKETS, **options
        )
        self._active = client.Gauge("reslink_requests_under_way", "Active upload requests", ("worker",), **options)
        self._held = client.Gauge("reslink_held_bytes", "Bytes of uploads in memory", ("worker",), **options)
        self._files = client.Counter("reslink_files", "Files by result: read or refused", ("worker", "result"), **options)
        self._worker = str(os.getpid())
        self.set_load(0, 0)  # an autoscaler needs the series of an idle service too

    def count_request(self, route: str, status: int, seconds: float) -> None:
        """Counts a completed request."""
        self._requests.labels(self._worker, route, str(status)).inc()
        self._seconds.labels(self._worker, route).observe(seconds)

    def count_batch(self, model: str, size: int, seconds: float) -> None:
        """Counts a network batch."""
        self._batch.labels(self._worker, model).observe(size)
        self._network.labels(self._worker, model).observe(seconds)

    def count_file(self, result: str) -> None:
        """Counts a file: ``read`` or ``refused``."""
        self._files.labels(self._worker, result).inc()

    def set_load(self, active_requests: int, held_bytes: int) -> None:
        """Sets the current load."""
        self._active.labels(self._worker).set(active_requests)
        self._held.labels(self._worker).set(held_bytes)

    def exposition(self) -> bytes:
        """Returns the response body of ``/metrics``."""
        text: bytes = self._client.generate_latest(self._registry)
        return text
