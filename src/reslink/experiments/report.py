"""What a study says: answers in words, tables, charts; written as JSON, CSV and a page."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from reslink.files import write_atomic, write_json
from reslink.reports.experiment.page import study_report

Kind = Literal["text", "estimate", "test", "number", "percent", "count"]
Row = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """A table of the page.

    Attributes:
        name: Short name.
        title: What stands above it.
        columns: Key of a row to heading and kind: ``estimate`` and ``test`` are dictionaries with ``estimate, ci_low,
            ci_high, method, n`` and, for a test, ``p_value`` and ``p_holm``; ``percent`` is a share from 0 to 1.
        rows: The rows.
        note: What to know when reading it.
    """

    name: str
    title: str
    columns: Mapping[str, tuple[str, Kind]]
    rows: Sequence[Row]
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Returns the JSON form."""
        columns = [{"key": key, "title": title, "kind": kind} for key, (title, kind) in self.columns.items()]
        return {"name": self.name, "title": self.title, "columns": columns, "rows": list(self.rows), "note": self.note}


@dataclass(frozen=True)
class Study:
    """What a study says.

    Attributes:
        name: Its name, as in ``reslink study NAME``.
        title: What stands at the head of the page.
        question: What it was made to find out.
        answer: What was found, in sentences.
        facts: What to know before reading a figure: data, cases, seeds, recipe.
        tables: Its tables.
        charts: Its charts, as ``reports.study_charts`` draws them.
        runs: One row for each training run, or whatever else was repeated: the lines of ``study.csv``.
        failed: Name and reason of each run without a result.
        not_done: What could not be computed, and why.
    """

    name: str
    title: str
    question: str
    answer: Sequence[str]
    facts: Mapping[str, Any]
    tables: Sequence[Table]
    charts: Sequence[dict[str, Any]] = ()
    runs: Sequence[Row] = ()
    failed: Sequence[dict[str, str]] = ()
    not_done: Sequence[str] = field(default_factory=tuple)

    def as_dict(self) -> dict[str, Any]:
        """Returns what ``study.json`` holds; there is no NaN in it."""
        return {
            "study": self.name,
            "title": self.title,
            "question": self.question,
            "answer": list(self.answer),
            "facts": dict(self.facts),
            "tables": [table.as_dict() for table in self.tables],
            "charts": list(self.charts),
            "runs": list(self.runs),
            "failed": list(self.failed),
            "not_done": list(self.not_done),
            "research_use_only": True,
        }

    def write(self, folder: Path) -> dict[str, Any]:
        """Writes ``study.json``, ``study.csv`` and ``report.html``.

        Args:
            folder: The folder of the study.

        Returns:
            What ``study.json`` holds.

        Raises:
            StorageError: If something cannot be written.
        """
        value = self.as_dict()
        write_json(folder / "study.json", value)
        write_atomic(folder / "study.csv", _csv(self.runs))
        study_report(folder)
        return value


def _csv(rows: Sequence[Row]) -> str:
    stream = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(stream, fieldnames=names, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows({key: "" if value is None else value for key, value in row.items()} for row in rows)
    return stream.getvalue()
