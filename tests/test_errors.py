"""The three parts of an error and the nearest name."""

from __future__ import annotations

import pytest

from reslink.errors import (
    BundleError,
    CheckFailedError,
    InputError,
    ReslinkError,
    UsageError,
    check_choice,
    counted,
    listed,
    suggest,
)


def test_an_error_says_what_was_given_what_is_allowed_and_what_to_do() -> None:
    error = UsageError("x was given", "y is allowed", "Do z")
    assert str(error) == "x was given. y is allowed. Do z."
    assert (error.given, error.allowed, error.next_step) == ("x was given", "y is allowed", "Do z")


def test_a_question_has_no_final_period() -> None:
    assert str(UsageError("x was given", "y is allowed", "Did you mean 'y'?")) == "x was given. y is allowed. Did you mean 'y'?"


@pytest.mark.parametrize(
    ("kind", "code"), [(ReslinkError, 1), (InputError, 1), (UsageError, 2), (BundleError, 2), (CheckFailedError, 3)]
)
def test_exit_codes(kind: type[ReslinkError], code: int) -> None:
    assert kind("a", "b", "c").exit_code == code


def test_nearest_names_one_or_lists_all() -> None:
    assert suggest("lerning_rate", ["learning_rate", "epochs"]) == "Did you mean 'learning_rate'?"
    assert suggest("zzz", ["a", "b"]) == "Choose one of a, b"


def test_an_unknown_choice_names_the_allowed_ones() -> None:
    check_choice("backend", "torch", ("auto", "torch"))
    with pytest.raises(UsageError) as caught:
        check_choice("backend", "torhc", (name for name in ("auto", "torch")))
    assert str(caught.value) == "There is no backend 'torhc'. The backends are auto, torch. Did you mean 'torch'?"


@pytest.mark.parametrize(
    ("name", "options", "meant"),
    [
        ("val", ["all", "train", "validation", "test"], "validation"),
        ("Helthy", ["Healthy", "Tumor"], "Healthy"),
        ("gradcam", ["grad_cam", "occlusion"], "grad_cam"),
        ("noatention", ["no_attention", "no_first"], "no_attention"),
        ("contex_20", ["context_20", "context_40"], "context_20"),
        ("trainer.batch", ["trainer.epochs", "trainer.batch_size"], "trainer.batch_size"),
        ("sensitivity=95", ["youden", "sensitivity=0.95"], "sensitivity=0.95"),
        ("--sanety", ["--no-sanity", "--sanity"], "--sanity"),
    ],
)
def test_a_misspelled_or_shortened_name_is_recognized(name: str, options: list[str], meant: str) -> None:
    assert suggest(name, options) == f"Did you mean {meant!r}?"


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("min", "max"),
        ("min_size", "max_size"),
        ("no-mask", "mask"),
        ("attention", "no_attention"),
        ("unhealthy", "Healthy"),
        ("abnormal", "normal"),
        ("first_attention", "final_attention"),
        ("hyperdense", "hypodense"),
        ("inside", "outside"),
        ("enable", "disable"),
        ("--out", "--only"),
        ("gpu", "cpu"),
        ("context_30", "context_20"),
        ("T1", "T2"),
        ("trainer.batch", "trainer.epochs"),
        ("tst", "all"),
        ("", "a"),
    ],
)
def test_a_name_of_another_meaning_is_not_suggested(name: str, option: str) -> None:
    assert suggest(name, [option, "other"]) == f"Choose one of {option}, other"


def test_an_abbreviation_of_several_names_is_not_guessed() -> None:
    assert suggest("context", ["context_20", "context_40"]) == "Choose one of context_20, context_40"


def test_counts_and_lists_are_words_for_people() -> None:
    assert [counted(n, "image") for n in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
    assert [listed("abcdef"[:n]) for n in (0, 1, 5, 6)] == ["", "a", "a, b, c, d, e", "a, b, c, d, e and 1 more"]
