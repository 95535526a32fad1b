"""The cases of a data set that are in no metric of its evaluation, with the reasons."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Final

from reslink.bundles.scope import reason_kind
from reslink.errors import listed

_SHOWN_NAMES: Final = 3


@dataclass(frozen=True)
class NotEvaluated:
    """Cases that were not evaluated for one reason.

    Attributes:
        kind: ``could not be read``, ``overlap with the training or calibration data``, or ``the model is not for it``.
        reason: Why.
        n: Number of cases.
        names: The names of the first files, without their folders, and the number of the others.
    """

    kind: str
    reason: str
    n: int
    names: str


def not_evaluated(evaluation: Mapping[str, Any] | None) -> list[NotEvaluated]:
    """Returns the cases without a prediction or a metric by reason, the most frequent reason of each kind first.

    Args:
        evaluation: The content of ``evaluation.json``; None if there is none.
    """
    names: dict[tuple[str, str], list[str]] = defaultdict(list)
    for kind, reason, name in _reasons(evaluation or {}):
        names[kind, reason].append(PurePath(name).name)
    rows = [NotEvaluated(kind, reason, len(files), listed(files, _SHOWN_NAMES)) for (kind, reason), files in names.items()]
    kinds = [kind for kind, _ in names]
    return sorted(rows, key=lambda row: (kinds.index(row.kind), -row.n))


def _reasons(evaluation: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yields kind, reason and case name of each case that was not evaluated."""
    for name, message in (evaluation.get("failed") or {}).items():
        yield "could not be read", _failure(name, message), name
    for case in evaluation.get("excluded") or ():
        yield "overlap with the training or calibration data", case["reason"], case["path"]
    for name, reason in (evaluation.get("refused") or {}).items():
        yield "the model is not for it", reason_kind(reason), name


def _failure(name: str, message: str) -> str:
    """Returns the first sentence of an error without the path of the file, which can name a patient."""
    sentence = re.split(r"(?<=\.)\s", message.replace(name, "the file"), maxsplit=1)[0].removesuffix(".")
    return "other error" if PurePath(name).name in sentence or "/" in sentence else sentence
