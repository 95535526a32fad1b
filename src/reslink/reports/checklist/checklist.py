"""Reporting checklists, each item filled from a run or marked for the author."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

import yaml

from reslink.errors import UsageError, nearest
from reslink.reports.checklist.answers import FACTS
from reslink.reports.checklist.evidence import Evidence

Status = Literal["filled", "partly filled", "the author must write this"]


@dataclass(frozen=True)
class Item:
    """An item of a checklist.

    Attributes:
        number: Its number in the checklist.
        topic: What it asks for.
        status: Whether the run answers it.
        text: What the run says; empty where it says nothing.
        author: What the author must write; empty where nothing is missing.
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
    """A checklist, filled as far as a run can fill it.

    Attributes:
        name: Such as ``claim``.
        title: Its title.
        reference: Where it was published.
        note: What to know about its numbers.
        items: Its items in order.
    """

    name: str
    title: str
    reference: str
    note: str
    items: tuple[Item, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Items by status."""
        return dict(Counter(item.status for item in self.items))

    def as_dict(self) -> dict[str, Any]:
        """Returns the JSON form."""
        return {**vars(self), "counts": self.counts, "items": [item.as_dict() for item in self.items]}


@cache
def _known() -> dict[str, Any]:
    text = resources.files("reslink.reports").joinpath("checklists.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))


def names() -> list[str]:
    """Returns the names of the checklists."""
    return list(_known())


def fill(name: str, evidence: Evidence) -> Checklist:
    """Fills a checklist.

    Args:
        name: ``claim``, ``stard-ai`` or ``tripod-ai``.
        evidence: The run and what belongs to it.

    Raises:
        UsageError: If there is no such checklist, with the nearest.
    """
    known = _known()
    if name not in known:
        raise UsageError(f"There is no checklist {name!r}", f"The known ones are {', '.join(known)}", nearest(name, known))
    entry = known[name]
    items = tuple(_item(item, evidence) for item in entry["items"])
    return Checklist(name, entry["title"], entry["reference"], entry["note"], items)


def _item(item: dict[str, str], evidence: Evidence) -> Item:
    found = FACTS[item["fill"]](evidence) if "fill" in item else None
    text, missing = ("", "") if found is None else (found.text, found.missing)
    author = "; ".join(part for part in (item.get("author", ""), missing) if part)
    if not text and not author:
        author = "the files of the run say nothing about it"
    status: Status = "the author must write this" if not text else "partly filled" if author else "filled"
    return Item(item["number"], item["topic"], status, text, author)
