"""Tissue values of CT and MR."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from reslink.datasets.phantom.cohort import Patient
from reslink.datasets.phantom.render import TISSUES
from reslink.datasets.phantom.tissue import Sequence, tissue_values

HU_RANGES: dict[str, tuple[float, float]] = {
    "gray": (37.0, 41.0),
    "white": (20.0, 34.0),
    "csf": (0.0, 15.0),
    "blood": (50.0, 75.0),
    "bone": (300.0, 2000.0),
    "fat": (-120.0, -50.0),
    "air": (-1000.0, -1000.0),
}
"""Published range of each tissue in HU (lowest, highest); the noise-free phantom stays within it."""


def _pixels(patients: list[Patient], *names: str) -> NDArray[np.float32]:
    numbers = [TISSUES.index(name) for name in names]
    return np.concatenate([s.pixels[np.isin(s.tissue, numbers)] for p in patients for s in p.slices])


@pytest.mark.parametrize(
    ("range_name", "names"),
    [
        ("gray", ("nuclei",)),
        ("white", ("white",)),
        ("csf", ("csf",)),
        ("blood", ("blood",)),
        ("bone", ("table",)),
        ("bone", ("diploe",)),
        ("fat", ("fat",)),
    ],
)
def test_tissue_is_within_its_published_range(
    healthy: list[Patient], bleeding: list[Patient], range_name: str, names: tuple[str, ...]
) -> None:
    found = _pixels(healthy + bleeding, *names)
    low, high = HU_RANGES[range_name]
    assert len(found) >= 100
    assert low <= found.mean() <= high


def test_every_patients_tissue_values_are_within_the_published_ranges(rng: np.random.Generator) -> None:
    alias = {"table": "bone", "diploe": "bone", "dense_bone": "bone", "nuclei": "gray"}
    for _ in range(50):
        for name, value in tissue_values("CT", rng).items():
            if (known := HU_RANGES.get(alias.get(name, name))) is not None:
                assert known[0] <= value <= known[1], name


@pytest.mark.parametrize(
    ("sequence", "order"), [("T1", "csf gray white"), ("T2", "white gray csf"), ("FLAIR", "csf white gray")]
)
def test_mr_contrasts_order_the_tissues(sequence: Sequence, order: str, rng: np.random.Generator) -> None:
    for _ in range(10):
        values = tissue_values(sequence, rng)
        found = [values[name] for name in order.split()]
        assert found == sorted(found)
