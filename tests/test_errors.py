"""The three parts of an error and the nearest name."""

from __future__ import annotations

import pytest

from reslink.errors import BundleError, GateError, InputError, ReslinkError, UsageError, nearest


def test_an_error_says_what_was_given_what_is_allowed_and_what_to_do() -> None:
    error = UsageError("x was given", "y is allowed", "Do z")
    assert str(error) == "x was given. y is allowed. Do z."
    assert (error.given, error.allowed, error.next_step) == ("x was given", "y is allowed", "Do z")


@pytest.mark.parametrize(
    ("kind", "code"), [(ReslinkError, 1), (InputError, 1), (UsageError, 2), (BundleError, 2), (GateError, 3)]
)
def test_exit_codes(kind: type[ReslinkError], code: int) -> None:
    assert kind("a", "b", "c").exit_code == code


def test_nearest_names_one_or_lists_all() -> None:
    assert nearest("lerning_rate", ["learning_rate", "epochs"]) == "Did you mean 'learning_rate'"
    assert nearest("zzz", ["a", "b"]) == "Choose one of a, b"
