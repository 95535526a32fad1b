"""The names of units and sequences."""

from __future__ import annotations

import pytest

from reslink.errors import UsageError
from reslink.imaging.spellings import is_sequence, parse_sequence, parse_unit


@pytest.mark.parametrize(
    ("text", "unit"), [("hu", "HU"), (" Hu ", "HU"), ("MR", "MR"), ("gray", "gray"), ("GREY", "gray"), (None, None)]
)
def test_units_are_read_in_any_case(text: str | None, unit: str | None) -> None:
    assert parse_unit(text) == unit


@pytest.mark.parametrize("text", ["HUU", "", "hounsfield"])
def test_other_units_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"is not valid\. The units are HU, MR and gray"):
        parse_unit(text)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        *(
            (text, "T1")
            for text in (
                "T1",
                "t1w",
                "T1-weighted",
                "T1n",
                "T1 pre",
                "T1C-",
                "T1 C-",
                "T1w_C-",
                "T1 without contrast",
                "T1 FLAIR",
            )
        ),
        *(
            (text, "T1C+")
            for text in ("T1C+", "T1c", "t1ce", "T1 Gd", "T1+C", "T1w_CE", "T1-post", "T1 contrast-enhanced", "T1w C+")
        ),
        *((text, "T1C+") for text in ("T1w post", "T1 weighted (post contrast)", "T1 with contrast", "T1 after contrast")),
        *((text, "T2") for text in ("T2", "t2w", "T2 weighted")),
        *((text, "FLAIR") for text in ("FLAIR", "T2-FLAIR", "t2f", "flair")),
        *((text, "T2*") for text in ("T2*", "SWI", "T2 star")),
    ],
)
def test_the_usual_spellings_of_a_sequence_have_one_name(text: str, name: str) -> None:
    assert parse_sequence(text) == name
    assert is_sequence(text)


def test_an_unknown_word_is_a_sequence_of_its_own() -> None:
    assert parse_sequence(" MAGiC ") == "MAGiC"
    assert not is_sequence("MAGiC")


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_sequence_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"The sequence is empty\. Sequences are T1, T1C\+, .* Leave it out"):
        parse_sequence(text)
