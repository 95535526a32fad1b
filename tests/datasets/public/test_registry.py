"""The list of public data sets: complete, in agreement with itself, and honest about what is not known."""

from __future__ import annotations

import pytest

from reslink.datasets.public.conversion import CONVERTERS
from reslink.datasets.public.registry import get_public_dataset, public_datasets
from reslink.errors import UsageError

NAMES = {"ct_mri_kaggle", "sartaj", "figshare", "br35h", "nickparvar", "lgg", "brisc", "ct_ich", "brats"}


def test_the_sets_of_the_issue_are_known() -> None:
    assert set(public_datasets()) == NAMES


@pytest.mark.parametrize("name", sorted(NAMES))
def test_each_set_is_described_and_agrees_with_itself(name: str) -> None:
    entry = get_public_dataset(name)
    assert entry.page.startswith("https://")
    assert entry.known_issues
    assert entry.evidence
    assert entry.masks
    assert entry.patients
    assert entry.terms
    assert set(entry.overlaps) <= NAMES - {name}
    assert all(name in get_public_dataset(other).overlaps for other in entry.overlaps)
    assert set(entry.labels.values()) <= {"Healthy", "Tumor", "Hemorrhage"}
    assert {folder.label for folder in entry.layout.folders} <= set(entry.labels)
    assert bool(entry.layout.folders) == (entry.layout.kind == "folders")
    assert entry.layout.kind == "folders" or entry.layout.kind in CONVERTERS
    assert all(file.url.startswith("https://") for file in entry.files)


def test_unknown_values_are_null() -> None:
    assert all(file.sha256 is None for entry in public_datasets().values() for file in entry.files)
    assert "No license is known" in get_public_dataset("br35h").terms
    assert get_public_dataset("ct_ich").files == []


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match="Did you mean 'nickparvar'"):
        get_public_dataset("nickparva")
