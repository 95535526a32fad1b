"""The results of an audit: what the text and the JSON of a probe say about a sample."""

from __future__ import annotations

import numpy as np
import pytest

from reslink.audit.checks.shortcuts import ProbeResult
from reslink.audit.result import describe_probe
from reslink.metrics.intervals import Estimate


def probe(low: float, sampled_from: int | None) -> ProbeResult:
    estimate = Estimate(low + 0.1, low, low + 0.2, "bootstrap", 20_000)
    rows = np.arange(20_000)
    return ProbeResult("outside_head", estimate, 0.5, 0.001, (), rows, np.zeros((0, 2)), 0.001, sampled_from=sampled_from)


@pytest.mark.parametrize("low", [0.4, 0.7])
def test_a_sample_is_stated_beside_the_interval(low: float) -> None:
    interval = f"{low + 0.1:.3f} (95 % interval {low:.3f} to {low + 0.2:.3f})"
    assert f"{interval} on a sample of 20,000 of 1,000,000 images" in describe_probe(probe(low, 1_000_000))
    assert probe(low, 1_000_000).as_dict()["sample"] == {"images": 20_000, "of": 1_000_000}


def test_a_probe_of_all_cases_has_no_sample() -> None:
    assert interval_only(describe_probe(probe(0.7, None)))
    assert "sample" not in probe(0.7, None).as_dict()


def interval_only(text: str) -> bool:
    return "interval 0.700 to 0.900), chance" in text and "sample" not in text
