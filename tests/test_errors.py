"""The three parts of an error and the nearest name."""

from __future__ import annotations

import pytest

from reslink.errors import BundleError, CheckFailedError, InputError, ReslinkError, UsageError, suggest


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
