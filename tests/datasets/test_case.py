"""The name of a case and the patient that the data set states."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from reslink.datasets.case import DEFAULT_FRACTIONS, SPLIT_NAMES, SPLITS, Case, case_name
from reslink.imaging.spellings import UNIT_NAMES, UNITS
from reslink.training.recipe.recipe import load_recipe


def test_the_name_is_the_printable_path_below_the_root() -> None:
    assert case_name(Path("/data/a/1.png"), Path("/data")) == "a/1.png"
    assert case_name(Path("/data/a\r.png"), Path("/data")) == "a\\r.png"


def test_a_patient_of_a_header_is_not_stated() -> None:
    case = Case(Path("/1.png"), "a", patient_id="p1")
    assert case.stated_patient == "p1"
    assert replace(case, patient_from_header=True).stated_patient == ""
    assert Case(Path("/1.png"), "a").stated_patient == ""


def test_words_for_splits_and_units() -> None:
    assert set(SPLIT_NAMES.values()) == set(SPLITS)
    assert set(UNIT_NAMES.values()) == set(UNITS)
    assert all(name == name.casefold() for name in [*SPLIT_NAMES, *UNIT_NAMES])


def test_one_default_split() -> None:
    assert sum(DEFAULT_FRACTIONS) == 1
    assert load_recipe().data.fractions == DEFAULT_FRACTIONS
