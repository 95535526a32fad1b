"""Label maps: texts and mappings, one or several data sets."""

from __future__ import annotations

import pytest

from reslink.datasets.label_map import check_label_map, map_of_set, parse_label_map, split_key
from reslink.errors import UsageError


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        (["a=B", "c = D"], {"a": "B", "c": "D"}),
        (["a="], {"a": None}),
        (["a=B", "a=B"], {"a": "B"}),
        (["a=b=c"], {"a": "b=c"}),
        ([], {}),
    ],
)
def test_a_map_is_label_and_class(texts: list[str], found: dict[str, str | None]) -> None:
    assert parse_label_map(texts) == found


@pytest.mark.parametrize("texts", [["glioma"], ["=Tumor"], ["a=B", "a=C"]])
def test_an_incomplete_or_ambiguous_map_is_refused(texts: list[str]) -> None:
    with pytest.raises(UsageError, match="--map"):
        parse_label_map(texts)


def test_a_mapping_is_a_map_already() -> None:
    assert parse_label_map({"a": "B", "c": None}) == {"a": "B", "c": None}
    assert parse_label_map("a=B") == {"a": "B"}


def test_a_map_of_one_data_set_takes_precedence() -> None:
    given = {"bleed": "Tumor", "north:bleed": "Healthy", "south: other  one ": None, "grade: 2": "Tumor"}
    assert map_of_set(given, "north", ["north", "south"]) == {"bleed": "Healthy", "grade: 2": "Tumor"}
    assert map_of_set(given, "south", ["north", "south"]) == {"bleed": "Tumor", "other one": None, "grade: 2": "Tumor"}
    assert split_key("a:b:c", ["a", "a:b"]) == ("a:b", "c"), "the longest name wins"


def test_every_key_is_a_label_of_the_data() -> None:
    labels = {"north": {"bleed", "none"}, "south": {"tumor"}, "unknown": set()}
    check_label_map({"bleed": "A", "south:tumor": None, "unknown:anything": "A"}, labels)
    for key, message in (
        ("bleeds", r"No data set has the label 'bleeds'\. The labels are bleed, none, tumor\. Did you mean 'bleed'\?"),
        ("south:bleed", r"The data set south does not have the label 'bleed'\. The labels are tumor\."),
        ("nort:bleed", r"names the data set 'nort', which was not given\. The data sets are .* Did you mean 'north'\?"),
        ("nort:none at all", "No data set has the label 'nort:none at all'"),
    ):
        with pytest.raises(UsageError, match=message):
            check_label_map({key: "A"}, labels)
    check_label_map({"anything": "A"}, {"unknown": ()})
