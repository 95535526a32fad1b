"""Patients that several tests of the phantom look at."""

from __future__ import annotations

import itertools

import pytest

from reslink.datasets.phantom.cohort import Patient, render_patient


@pytest.fixture(scope="session")
def healthy() -> list[Patient]:
    return [render_patient(11, index, tumor=False, slices=2) for index in range(1, 11)]


@pytest.fixture(scope="session")
def ill() -> list[Patient]:
    return [render_patient(11, index, tumor=True) for index in range(1, 13)]


@pytest.fixture(scope="session")
def bleeding() -> list[Patient]:
    found = (render_patient(11, index, tumor=True, slices=1) for index in range(1, 100))
    return list(itertools.islice((p for p in found if p.lesion is not None and p.lesion.kind == "hemorrhagic"), 3))
