"""The exceptions of reslink. Each message has three parts: what was given, what is allowed, what to do next."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final


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


def counted(number: int, noun: str) -> str:
    """Returns a number with its noun, such as ``1 image`` or ``2 images``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def listed(names: Iterable[str], limit: int = 5) -> str:
    """Returns the first names and the number of the others."""
    items = list(names)
    others = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + others


def as_sentence(text: str) -> str:
    """Returns the text with a final period, unless it ends with a period or a question mark."""
    return text if text.endswith((".", "?")) else f"{text}."


def suggest(name: str, options: Iterable[str]) -> str:
    """Returns the phrase that suggests the option a user most likely meant.

    Args:
        name: The name that the user wrote.
        options: The allowed names.

    Returns:
        ``Did you mean 'x'?`` or, if no option is spelled almost so or all similar options mean something else,
        ``Choose one of a, b, c``.
    """
    choices = list(options)
    match = nearest(name, choices)
    return "Choose one of " + ", ".join(choices) if match is None else f"Did you mean {match!r}?"


_SIMILAR: Final = 0.75
"""Smallest share of letters in common (``difflib`` ratio) of two spellings of one name."""

_ABBREVIATION: Final = 3
"""Smallest number of letters of an abbreviation, such as ``val`` for ``validation``."""

_NEGATIONS: Final = ("no", "not", "non", "un", "in", "dis", "de", "ab", "anti", "without")
_OPPOSITES: Final = (
    *(("min", "max"), ("low", "high"), ("lower", "upper"), ("first", "last"), ("first", "final"), ("best", "worst")),
    *(("best", "last"), ("in", "out"), ("on", "off"), ("en", "dis"), ("include", "exclude"), ("before", "after")),
    *(("pre", "post"), ("hypo", "hyper"), ("left", "right"), ("start", "end"), ("up", "down"), ("with", "without")),
    *(("train", "test"), ("positive", "negative"), ("more", "less"), ("row", "column")),
)


def nearest(name: str, options: Iterable[str]) -> str | None:
    """Returns the option that is spelled almost like a name; None if there is none, or if it means something else.

    A word and its opposite (``min`` and ``max``, ``healthy`` and ``unhealthy``), and names with other numbers, mean something
    else. An abbreviation must fit one option only.
    """
    scores = {option: _similarity(name, option) for option in options}
    best = max(scores, key=lambda option: scores[option], default="")
    if not best or scores[best] == 1:
        return best or None
    letters = "".join(_words(name))
    longer = [option for option in scores if len(letters) >= _ABBREVIATION and "".join(_words(option)).startswith(letters)]
    if len(longer) > 1:
        return None
    if longer and scores[best] < _SIMILAR:
        return None if _differs_in_meaning(_words(name), _words(longer[0])) else longer[0]
    return best if scores[best] >= _SIMILAR else None


def _similarity(name: str, option: str) -> float:
    """Returns how similar two spellings are, 0 to 1; 0 if they differ in meaning."""
    if name.casefold() == option.casefold():
        return 1.0
    words, other = _words(name), _words(option)
    if _differs_in_meaning(words, other):
        return 0.0
    if len(words) == len(other) and min(map(_ratio, words, other), default=0.0) < 0.5:
        return 0.0  # another word at the end of a long key
    return _ratio("".join(words), "".join(other))


def _words(name: str) -> list[str]:
    """Returns the words of a name in lower case; the value after ``=`` is left out."""
    return re.findall(r"[^\W_]+", name.partition("=")[0].casefold())


def _ratio(a: str, b: str) -> float:
    return difflib.SequenceMatcher(None, a, b, autojunk=False).ratio()


def _differs_in_meaning(words: Sequence[str], other: Sequence[str]) -> bool:
    """Returns whether two names have other numbers, or differ in a negation or an opposite."""
    if not set(re.findall(r"\d+", " ".join(words))) <= set(re.findall(r"\d+", " ".join(other))):
        return True
    only, only_other = sorted(set(words) - set(other)), sorted(set(other) - set(words))
    for mine, theirs in ((only, other), (only_other, words)):
        if any(word in _NEGATIONS and not "".join(theirs).startswith(word) for word in mine):
            return True
    pairs = [(a, b) for a in only for b in only_other]
    return any(_are_opposites(a, b) or _are_opposites(b, a) for a, b in pairs)


def _are_opposites(a: str, b: str) -> bool:
    """Returns whether b is the negation of a, or the same word with the opposite of a part of it."""
    return b in {negation + a for negation in _NEGATIONS} | {a.replace(x, y) for x, y in _OPPOSITES if x in a}


def check_choice(kind: str, name: str, choices: Iterable[str]) -> None:
    """Checks that a name is one of the allowed ones.

    Args:
        kind: What the name is one of, in the singular, such as ``backend``.
        name: The name that the user wrote.
        choices: The allowed names.

    Raises:
        UsageError: If it is none of them, with the nearest one.
    """
    names = list(choices)
    if name not in names:
        raise UsageError(f"There is no {kind} {name!r}", f"The {kind}s are {', '.join(names)}", suggest(name, names))


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
