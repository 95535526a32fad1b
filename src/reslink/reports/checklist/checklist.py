"""Reporting checklists: each item is filled from a run or left to the author."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

import yaml

from reslink.errors import UsageError, suggest
from reslink.reports.checklist.answers import ANSWERS
from reslink.reports.checklist.evidence import Evidence

Status = Literal["filled", "partly filled", "to be written by the author"]


@dataclass(frozen=True)
class Item:
    """An item of a checklist.

    Attributes:
        number: Its number in the checklist.
        topic: What it asks for.
        status: Whether the run answers it.
        text: The answer from the run; empty if there is none.
        author: What the author must write; empty if nothing is missing.
    """

    number: str
    topic: str
    status: Status
    text: str
    author: str

    def as_dict(self) -> dict[str, str]:
        """Returns the JSON form."""
        return dict(vars(self))


@dataclass(frozen=True)
class Checklist:
    """A checklist, filled from a run.

    Attributes:
        name: Such as ``claim``.
        title: Its title.
        reference: Its publication.
        note: A remark on the numbers of its items.
        items: Its items in order.
    """

    name: str
    title: str
    reference: str
    note: str
    items: tuple[Item, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Number of items by status."""
        return dict(Counter(item.status for item in self.items))

    def as_dict(self) -> dict[str, Any]:
        """Returns the JSON form."""
        return {**vars(self), "counts": self.counts, "items": [item.as_dict() for item in self.items]}


@cache
def _definitions() -> dict[str, Any]:
    text = resources.files("reslink.reports").joinpath("checklists.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))


def names() -> list[str]:
    """Returns the names of the checklists."""
    return list(_definitions())


def fill(name: str, evidence: Evidence) -> Checklist:
    """Fills a checklist.

    Args:
        name: ``claim``, ``stard-ai`` or ``tripod-ai``.
        evidence: The run, with its audit, experiments and external evaluations.

    Raises:
        UsageError: If there is no such checklist; the message names the nearest.
    """
    definitions = _definitions()
    if name not in definitions:
        raise UsageError(
            f"There is no checklist {name!r}", f"The checklists are {', '.join(definitions)}", suggest(name, definitions)
        )
    definition = definitions[name]
    items = tuple(_fill_item(item, evidence) for item in definition["items"])
    return Checklist(name, definition["title"], definition["reference"], definition["note"], items)


def _fill_item(item: dict[str, str], evidence: Evidence) -> Item:
    answer = ANSWERS[item["answer"]](evidence) if "answer" in item else None
    text, missing = ("", "") if answer is None else (answer.text, answer.missing)
    author = "; ".join(part for part in (item.get("author", ""), missing) if part)
    if not text and not author:
        author = "not stated in the files of the run"
    status: Status = "to be written by the author" if not text else "partly filled" if author else "filled"
    return Item(item["number"], item["topic"], status, text, author)
