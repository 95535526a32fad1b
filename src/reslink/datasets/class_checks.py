"""Class names that mean the same class, and classes with too few cases."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence

from reslink.datasets.case import Case
from reslink.errors import UsageError, counted
from reslink.labels import alternative_spelling, misspelled_class, mixed_codes, spelling_conflicts

_log = logging.getLogger(__name__)


def check_spellings(cases: Sequence[Case]) -> None:
    """Refuses labels, and patients, that differ only in case, spacing or number format.

    Raises:
        UsageError: If two of them do.
    """
    patients = Counter(case.patient_id for case in cases if case.patient_id is not None)
    labels = Counter(case.label for case in cases if not case.states)
    for what, counts in (("labels", labels), ("patients", patients)):
        conflicts = spelling_conflicts(counts)
        if conflicts:
            first, second = (f"{name!r} ({counted(counts[name], 'case')})" for name in conflicts[0])
            more = f" (as do {len(conflicts) - 1} other pairs)" if len(conflicts) > 1 else ""
            raise UsageError(
                f"The {what} {first} and {second} differ only in case, spacing or number format{more}",
                f"Different {what} differ in more than that",
                "Write them alike if they are the same, or rename one of them",
            )


def check_class_names(counts: Mapping[str, int], *, stop: bool) -> None:
    """Refuses, or reports, two class names that probably mean the same class.

    Args:
        counts: The number of cases of each class.
        stop: Whether they are refused; else they are logged.

    Raises:
        UsageError: If there are two such names.
    """
    found = _class_named_twice(counts)
    if found is None:
        return
    given, allowed = found
    if not stop:
        _log.warning("%s.", given)
        return
    order = ", ".join(sorted(counts))
    raise UsageError(
        given,
        allowed,
        f"Correct the label, or confirm the classes with data.class_order=[{order}] in the recipe",
    )


def _class_named_twice(counts: Mapping[str, int]) -> tuple[str, str] | None:
    """Returns what is wrong with two class names, and what is allowed."""

    def named(name: str) -> str:
        return f"{name!r} ({counted(counts[name], 'case')})"

    if (pair := misspelled_class(counts)) is not None:
        return (
            f"The name of the class {named(pair[0])} is close to that of {named(pair[1])}",
            "A class with fewer than 3 cases may be a misspelled label",
        )
    if (pair := alternative_spelling(sorted(counts))) is not None:
        return (
            f"The classes {named(pair[0])} and {named(pair[1])} look like one class in two spellings",
            "Each class has one name",
        )
    if (pair := mixed_codes(sorted(counts))) is not None:
        return (
            f"The labels {named(pair[0])} and {named(pair[1])} are two ways to write labels",
            f"All labels are numbers, or words, or yes and no, or True and False; these are {', '.join(sorted(counts))}",
        )
    return None


def check_counts(counts: Mapping[str, int]) -> None:
    """Refuses a class with a single case.

    Raises:
        UsageError: If there is one.
    """
    for label, n in sorted(counts.items()):
        if n < 2:
            raise UsageError(
                f"The class {label!r} has only one case",
                "Each class needs at least two cases, one for training and one for evaluation",
                f"Add images of {label!r}, or leave the class out",
            )
