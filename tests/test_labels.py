"""Class names, their order, and the positive class."""

from __future__ import annotations

import pytest

from reslink.errors import UsageError
from reslink.labels import (
    Labels,
    alternative_spelling,
    clean_text,
    is_missing,
    misspelled_class,
    mixed_codes,
    spelling_conflicts,
    spelling_key,
)


def test_sorted_by_name_and_the_last_of_two_is_positive() -> None:
    labels = Labels.sorted_from(["Tumor", "Healthy", "Tumor"])
    assert labels.names == ("Healthy", "Tumor")
    assert labels.positive == "Tumor"
    assert labels.index("Healthy") == 0
    assert Labels.sorted_from("abc").positive is None


def test_a_stated_order_is_kept_and_must_fit() -> None:
    assert Labels.ordered(["a", "b"], ["b", "a"]).positive == "a"
    with pytest.raises(UsageError, match=r"class order \['a'\] does not match"):
        Labels.ordered(["a", "b"], ["a"])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "no class"),
        (["Tumor"], "only the class 'Tumor'.*at least two classes"),
        (["tumor", "Tumor"], "'tumor' and 'Tumor' differ only in case, spacing or number format"),
        (["a", "a "], "differ only in case, spacing or number format"),
        (["a", " "], "class name is empty"),
    ],
)
def test_names_that_cannot_be_classes(names: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Labels(tuple(names))


def test_unknown_class_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no class 'Tumour'.*Did you mean 'Tumor'"):
        Labels(("Healthy", "Tumor")).index("Tumour")


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Le\u0301sion", "L\u00e9sion"),
        ("Tu\u200bmor", "Tumor"),
        ("\ufeffTu\u00admor\u2060", "Tumor"),
        (" no \u00a0 tumor\t", "no tumor"),
        ("e\u200d\u0301", "\u00e9"),
        ("a\r\nb", "a b"),
    ],
)
def test_invisible_differences_vanish(text: str, clean: str) -> None:
    assert clean_text(text) == clean
    assert clean_text(clean) == clean


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1", "1.0"),
        ("7", "007"),
        ("1", "1,0"),
        ("+1", "1"),
        ("-01", "-1.0"),
        ("1,50", "1.50"),
        ("Tumor", "tumor "),
        ("No Tumor", "no_tumor"),
        ("no-tumor", "notumor"),
        ("P1", "p1"),
        ("P1", "P01"),
        ("P7", "P7.0"),
        ("sub-01", "sub_1"),
        ("\uff34umor", "Tumor"),
        ("Stra\u00dfe", "STRASSE"),
        ("12345678901234567890123456789012345", "12345678901234567890123456789012345.0"),
    ],
)
def test_spellings_of_one_name(one: str, other: str) -> None:
    assert spelling_key(one) == spelling_key(other)
    assert spelling_conflicts([one, "x", other, one]) == [(one, other)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1", "-1"),
        ("1.5", "15"),
        ("+", "0"),
        ("1.1", "1.10"),
        ("P1.1", "P1.10"),
        ("120e3", "12e4"),
        ("100", "1e2"),
        ("3e51234567", "3e51234568"),
        ("1-23", "12-3"),
        ("HER2", "HER2-"),
        ("grade 1.05", "grade 1.5"),
        ("P1", "P10"),
        ("1.2.840.1", "1.2.840.1.0"),
        ("12345678901234567890123456789012345", "12345678901234567890123456789012346"),
        ("a", "b"),
    ],
)
def test_different_names(one: str, other: str) -> None:
    assert spelling_conflicts([one, other]) == []


@pytest.mark.parametrize("word", ["", " ", "nan", "NaN", "NA", "n/a", "null", "None", "-", "\u200b"])
def test_missing_values(word: str) -> None:
    assert is_missing(word)
    assert not is_missing(f"{word}x")


@pytest.mark.parametrize(
    ("counts", "pair"),
    [
        ({"Healthy": 40, "Helthy": 2, "Tumor": 40}, ("Helthy", "Healthy")),
        ({"Healthy": 40, "Tumor": 40, "Tumour": 1}, ("Tumour", "Tumor")),
        ({"glioma": 9, "giloma": 2, "other": 9}, ("giloma", "glioma")),
        ({"no tumor": 9, "tumor": 9, "notumors": 1}, ("notumors", "no tumor")),
        ({"no": 40, "yes": 40, "yess": 2}, ("yess", "yes")),
        ({"no": 40, "yes": 40, "noo": 1, "yeah": 1}, None),
        ({"no": 40, "tumor": 40, "umor": 2}, ("umor", "tumor")),
        ({"healthy": 40, "tumor": 40, "ttumor": 1}, ("ttumor", "tumor")),
        ({"Normal": 40, "Tumor": 40, "ormal": 1}, ("ormal", "Normal")),
        ({"no_tumor": 40, "tumor": 2}, None),
        ({"typical": 40, "atypical": 2}, None),
        ({"stable": 40, "unstable": 2}, None),
        ({"lesion": 40, "L lesion": 2}, None),
        ({"grade_II": 40, "grade_III": 2}, None),
        ({"Grade VII": 40, "Grade VIII": 2}, None),
        ({"CT": 40, "Ctrl": 2}, None),
        ({"Healthy": 40, "Helthy": 3}, None),
        ({"normal": 40, "abnormal": 2}, None),
        ({"grade 1": 40, "grade 2": 2}, None),
        ({"Grade II": 40, "Grade III": 2}, None),
        ({"type A": 40, "type B": 2}, None),
        ({"CT": 40, "MR": 2}, None),
        ({"T1": 9, "T2": 1}, None),
        ({"glioma": 9, "meningioma": 2}, None),
    ],
)
def test_a_rare_class_that_looks_misspelled(counts: dict[str, int], pair: tuple[str, str] | None) -> None:
    assert misspelled_class(counts) == pair


@pytest.mark.parametrize(
    ("names", "pair"),
    [
        (["Healthy", "Tumor", "Tumour"], ("Tumor", "Tumour")),
        (["glioma", "gliomas", "other"], ("glioma", "gliomas")),
        (["Haemorrhage", "hemorrhages"], ("Haemorrhage", "hemorrhages")),
        (["ischaemia", "ischemia"], ("ischaemia", "ischemia")),
        (["Tumor", "Tumor - Copy"], ("Tumor", "Tumor - Copy")),
        (["Tumor", "Tumor (2)"], ("Tumor", "Tumor (2)")),
        (["type (1)", "type (2)"], None),
        (["tumor", "no_tumor"], None),
        (["MS", "M"], None),
        (["class", "clas"], None),
        (["grade 1", "grade 2", "grade 3"], None),
    ],
)
def test_one_class_under_two_names(names: list[str], pair: tuple[str, str] | None) -> None:
    assert alternative_spelling(names) == pair


@pytest.mark.parametrize(
    ("names", "pair"),
    [
        (["0", "1", "False", "True"], ("0", "False")),
        (["0", "1", "no", "yes"], ("0", "no")),
        (["0", "1", "Tumor"], ("0", "Tumor")),
        (["False", "True", "no", "yes"], ("False", "no")),
        (["Healthy", "Tumor", "no", "yes"], ("Healthy", "no")),
        (["N", "Y", "neg", "pos"], ("N", "neg")),
        (["0", "1", "2"], None),
        (["0", "Tumor"], None),
        (["no", "unclear", "yes"], None),
        (["no", "tumor", "metastasis"], None),
        (["N", "P", "T"], None),
        (["F", "O", "P", "T"], None),
        (["1", "2", "3", "no_tumor"], None),
        (["1", "2", "3", "glioma", "no_tumor"], ("1", "glioma")),
        (["T", "F", "no", "yes"], ("T", "no")),
        (["glioma", "meningioma", "no_tumor"], None),
    ],
)
def test_labels_of_two_codes(names: list[str], pair: tuple[str, str] | None) -> None:
    assert mixed_codes(names) == pair
