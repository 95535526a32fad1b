"""The metrics, read with the parser of prometheus_client."""

from __future__ import annotations

import os

from prometheus_client.parser import text_string_to_metric_families

from reslink.serving.http.metrics import CONTENT_TYPE, Metrics


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Returns each value by name and labels, without the label of the process."""
    values = {}
    for family in text_string_to_metric_families(metrics.exposition().decode()):
        for sample in family.samples:
            labels = [f"{name}={value}" for name, value in sorted(sample.labels.items()) if name != "worker"]
            values[(sample.name, *labels)] = sample.value
    return values


def test_requests_batches_files_and_load_are_counted() -> None:
    metrics = Metrics()
    metrics.count_request("/v1/predict", 200, 0.02)
    metrics.count_request("/v1/predict", 200, 0.3)
    metrics.count_request("/v1/predict", 503, 0.001)
    metrics.count_batch("ct", 5, 0.1)
    metrics.count_file("read")
    metrics.set_load(2, 4096)
    values = samples(metrics)
    assert values["reslink_requests_total", "route=/v1/predict", "status=200"] == 2
    assert values["reslink_requests_total", "route=/v1/predict", "status=503"] == 1
    assert values["reslink_request_seconds_bucket", "le=0.025", "route=/v1/predict"] == 2
    assert values["reslink_batch_slices_sum", "model=ct"] == 5
    assert values["reslink_batch_slices_bucket", "le=4.0", "model=ct"] == 0
    assert values["reslink_files_total", "result=read"] == 1
    assert (values["reslink_requests_under_way",], values["reslink_held_bytes",]) == (2, 4096)


def test_each_service_has_its_own_values_with_its_process() -> None:
    first, second = Metrics(), Metrics()
    first.count_file("read")
    assert ("reslink_files_total", "result=read") not in samples(second)
    assert f'worker="{os.getpid()}"' in first.exposition().decode()
    assert CONTENT_TYPE.startswith("text/plain; version=0.0.4")


def test_an_idle_service_has_the_series_of_its_queue() -> None:
    """An autoscaler does not remove pods whose series is missing."""
    values = samples(Metrics())
    assert (values["reslink_requests_under_way",], values["reslink_held_bytes",]) == (0, 0)
