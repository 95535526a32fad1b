"""The exceptions of reslink. Each message has three parts: what was given, what is allowed, what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class ReslinkError(Exception):
    """Base class of all errors that reslink raises on purpose.

    Args:
        given: What was given and why it is refused, without a final period.
        allowed: What is allowed instead.
        next_step: What the user should do next, without a final period; it may be a question.

    Attributes:
        exit_code: Exit code of the command that fails with this error.
    """

    exit_code = 1

    def __init__(self, given: str, allowed: str, next_step: str) -> None:
        super().__init__(given, allowed, next_step)
        self.given = given
        self.allowed = allowed
        self.next_step = next_step

    def __str__(self) -> str:
        return " ".join(self.sentences())

    def sentences(self) -> tuple[str, str, str]:
        """Returns the three parts as sentences."""
        return as_sentence(self.given), as_sentence(self.allowed), as_sentence(self.next_step)


class InputError(ReslinkError):
    """An image, mask or table cannot be read; other inputs are still processed (exit code 1)."""


class StorageError(ReslinkError):
    """A file or folder could not be written; its earlier content is unchanged (exit code 1)."""


class UsageError(ReslinkError):
    """An option, setting, data set or bundle is invalid (exit code 2)."""

    exit_code = 2


class BundleError(UsageError):
    """A folder is not a bundle, or this version of reslink cannot use it (exit code 2)."""


class TrainingError(ReslinkError):
    """Training failed; the last good checkpoint is kept (exit code 1)."""


class DivergedError(TrainingError):
    """The loss or a gradient was not finite; the same run would fail again at the same step (exit code 1)."""


class CheckFailedError(ReslinkError):
    """A check failed (exit code 3)."""

    exit_code = 3


def as_sentence(text: str) -> str:
    """Returns the text with a final period, unless it ends with a period or a question mark."""
    return text if text.endswith((".", "?")) else f"{text}."


def suggest(name: str, options: Iterable[str]) -> str:
    """Returns the phrase that suggests the option a user most likely meant.

    Args:
        name: The name that the user wrote.
        options: The allowed names.

    Returns:
        ``Did you mean 'x'?`` or, if no option is similar, ``Choose one of a, b, c``.
    """
    choices = list(options)
    matches = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    if matches:
        return f"Did you mean {matches[0]!r}?"
    return "Choose one of " + ", ".join(choices)


RETRY_WRITE = "Free some space or choose another folder, then run the same command again"


def write_failed(target: Path | str, reason: OSError | str, next_step: str = RETRY_WRITE) -> StorageError:
    """Returns the error for a file or folder that could not be written.

    Args:
        target: The file or folder, or a phrase that names it.
        reason: The error of the operating system, or its message.
        next_step: What the user should do next.
    """
    if isinstance(reason, OSError):
        reason = reason.strerror or str(reason)
    return StorageError(
        f"{target} could not be written: {reason}", "reslink needs write permission and free disk space there", next_step
    )


def unusable_bundle(
    what: Path | str,
    reason: str,
    next_step: str = "Copy the whole bundle again, or train or calibrate again",
) -> BundleError:
    """Returns the error for a file or field of a bundle that cannot be used.

    Args:
        what: The file, or a phrase that names the field.
        reason: Why it cannot be used.
        next_step: What the user should do next.
    """
    return BundleError(f"{what} cannot be used: {reason}", "A bundle holds exactly the files that reslink wrote", next_step)
