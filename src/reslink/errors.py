"""The errors of reslink: each says what was given, what is allowed, and what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ReslinkError(Exception):
    """Anything that reslink refuses to do, in three parts that a user can act on.

    Args:
        given: What was given and why it cannot be used, without a full stop.
        allowed: What is allowed instead.
        next_step: What the user should do next.
    """

    exit_code = 1

    def __init__(self, given: str, allowed: str, next_step: str) -> None:
        super().__init__(given, allowed, next_step)
        self.given = given
        self.allowed = allowed
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.given}. {self.allowed}. {self.next_step}."


class InputError(ReslinkError):
    """One image, mask or table cannot be read; the others may go on (exit code 1)."""


class StorageError(ReslinkError):
    """Something could not be written; what stood there before still stands (exit code 1)."""


class UsageError(ReslinkError):
    """An option, setting, data set or bundle that cannot be used (exit code 2)."""

    exit_code = 2


class BundleError(UsageError):
    """A folder that is not a bundle this version can use (exit code 2)."""


class TrainingError(ReslinkError):
    """Training stopped by itself; the last good state is kept (exit code 1)."""


class DivergedError(TrainingError):
    """Training stopped because its loss or a gradient was not finite; the same run would stop there again (exit code 1)."""


class GateError(ReslinkError):
    """A check said no (exit code 3)."""

    exit_code = 3


def nearest(name: str, options: Iterable[str]) -> str:
    """Returns the phrase that names the option a user most likely meant.

    Args:
        name: What the user wrote.
        options: What would have been allowed.

    Returns:
        ``Did you mean 'x'`` or, where nothing is near, ``Choose one of a, b, c``.
    """
    choices = list(options)
    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    if near:
        return f"Did you mean {near[0]!r}"
    return "Choose one of " + ", ".join(choices)
