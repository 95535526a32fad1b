"""The list of public data sets: complete, in agreement with itself, and honest about what is not known."""

from __future__ import annotations

import pytest

from reslink.datasets.public.conversion import CONVERTERS
from reslink.datasets.public.registry import source, sources
from reslink.errors import UsageError

NAMES = {"ct_mri_kaggle", "sartaj", "figshare", "br35h", "nickparvar", "lgg", "brisc", "ct_ich", "brats"}


def test_the_sets_of_the_issue_are_known() -> None:
    assert set(sources()) == NAMES


@pytest.mark.parametrize("name", sorted(NAMES))
def test_each_set_is_described_and_agrees_with_itself(name: str) -> None:
    entry = source(name)
    assert entry.page.startswith("https://")
    assert entry.faults
    assert entry.evidence
    assert entry.masks
    assert entry.patients
    assert entry.terms
    assert set(entry.overlaps) <= NAMES - {name}
    assert all(name in source(other).overlaps for other in entry.overlaps)
    assert set(entry.labels.values()) <= {"Healthy", "Tumor", "Haemorrhage"}
    assert {folder.label for folder in entry.layout.folders} <= set(entry.labels)
    assert bool(entry.layout.folders) == (entry.layout.kind == "folders")
    assert entry.layout.kind == "folders" or entry.layout.kind in CONVERTERS
    assert all(file.url.startswith("https://") for file in entry.files)


def test_what_is_not_known_is_null_and_not_made_up() -> None:
    assert all(file.sha256 is None for entry in sources().values() for file in entry.files)
    assert "No licence is known" in source("br35h").terms
    assert source("ct_ich").files == []


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="Did you mean 'nickparvar'"):
        source("nickparva")
