"""The report of an experiment: conclusions, tables and charts, written as JSON, CSV and an HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from reslink.files import csv_text, write_atomic, write_json
from reslink.reports.experiment.page import experiment_report

ColumnKind = Literal["text", "estimate", "test", "number", "rounded", "percent", "count"]
Row = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """A table of the page.

    Attributes:
        name: Short name.
        title: Heading.
        columns: Key in the rows to heading and kind. ``estimate`` and ``test`` are dictionaries with ``estimate``,
            ``ci_low``, ``ci_high``, ``method``, ``n`` and, for a test, ``p_value`` and ``p_holm``; ``percent`` is 0 to 1,
            ``rounded`` a number with three significant digits.
        rows: The rows.
        note: A note below the table.
    """

    name: str
    title: str
    columns: Mapping[str, tuple[str, ColumnKind]]
    rows: Sequence[Row]
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Returns the JSON form."""
        columns = [{"key": key, "title": title, "kind": kind} for key, (title, kind) in self.columns.items()]
        return {"name": self.name, "title": self.title, "columns": columns, "rows": list(self.rows), "note": self.note}


@dataclass(frozen=True)
class ExperimentReport:
    """The report of an experiment.

    Attributes:
        name: Name, as in ``reslink experiment NAME``.
        title: Title of the page.
        question: The question that the experiment answers.
        answer: The answer, in sentences.
        facts: Facts at the head of the page: data, cases, seeds, recipe.
        tables: The tables.
        charts: The charts, in the form that ``reports.experiment.charts`` draws.
        runs: One row per training run, or per condition where nothing is trained: the rows of ``experiment.csv``.
        failed: Name and reason of each run without a result.
        not_done: Parts of the report that could not be computed, with the reason.
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
        """Returns the contents of ``experiment.json``, without NaN."""
        return {
            "experiment": self.name,
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
        """Writes ``experiment.json``, ``experiment.csv`` and ``report.html``.

        Args:
            folder: The folder of the experiment.

        Returns:
            The contents of ``experiment.json``.

        Raises:
            StorageError: If a file cannot be written.
        """
        content = self.as_dict()
        write_json(folder / "experiment.json", content)
        write_atomic(
            folder / "experiment.csv", csv_text(list(dict.fromkeys(name for row in self.runs for name in row)), self.runs)
        )
        experiment_report(folder)
        return content
