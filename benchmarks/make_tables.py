"""Writes the tables of docs/benchmarks from the results in benchmarks/results.

Run: python benchmarks/make_tables.py            rewrite the tables in the pages
     python benchmarks/make_tables.py --check    exit with 3 if a page is out of date; nothing is written

A page marks the place of a table with ``<!-- table: NAME -->`` and ``<!-- end -->``. ``benchmarks/results/tables.yaml`` has an
entry for each NAME with the keys

- ``command``: the command that measured the numbers,
- ``machine``: a machine of the table in docs/benchmarks/index.md, or several,
- ``date``: the day of the measurement,
- ``notes``: number of cases, split, seeds and kind of interval (optional),
- ``data``: the CSV file without its suffix, NAME by default,
- ``columns`` and ``where``: the columns and the rows to show, all by default.

The columns ``X``, ``X low`` and ``X high`` of a CSV file are shown as one column, ``value (low to high)``.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = ROOT / "docs" / "benchmarks"
OUT_OF_DATE = 3
MARKED = re.compile(r"<!-- table: (\S+) -->\n.*?<!-- end -->", re.DOTALL)
EMPTY = "–"
Row = dict[str, str]


def read_rows(path: Path) -> list[Row]:
    """Returns the rows of a CSV file, all with as many cells as its header."""
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise SystemExit(f"Line {number} of {path} has not as many cells as the header. Quote cells with a comma.")
    return rows


def selected(rows: Sequence[Row], where: Mapping[str, Any]) -> list[Row]:
    """Returns the rows whose value is listed in ``where``, for each of its columns."""
    allowed = {column: [str(value) for value in values] for column, values in where.items()}
    return [row for row in rows if all(row[column] in values for column, values in allowed.items())]


def shown_value(text: str) -> str:
    """Returns a cell as it is printed: a true minus sign, thousands separators, a dash where there is no value."""
    text = re.sub(r"(?<![\w.])-(?=\d)", "−", text)
    text = re.sub(r"(?<![\d.])(?<!\w-)\d{4,}(?![\d.])", lambda match: f"{int(match.group()):,}", text)
    return text.replace("|", r"\|") or EMPTY


def cell(row: Row, column: str) -> str:
    """Returns the value of a column with its interval, if it has one."""
    low, high = row.get(f"{column} low"), row.get(f"{column} high")
    value = shown_value(row[column])
    return f"{value} ({shown_value(low)} to {shown_value(high)})" if low and high else value


def is_number(row: Row, column: str) -> bool:
    """Returns whether a cell is empty or starts with a number."""
    return not row[column] or re.match(r"[+-]?\d", row[column]) is not None


def table(rows: Sequence[Row], columns: Sequence[str] | None = None) -> list[str]:
    """Returns the lines of a Markdown table; columns of numbers are right-aligned."""
    bounds = {f"{column} {end}" for column in rows[0] for end in ("low", "high")}
    shown = list(columns or [column for column in rows[0] if column not in bounds])
    align = ["--:" if all(is_number(row, column) for row in rows) else "---" for column in shown]
    lines = ["| " + " | ".join(shown) + " |", "|" + "|".join(align) + "|"]
    return lines + ["| " + " | ".join(cell(row, column) for column in shown) + " |" for row in rows]


def block(name: str, entry: Mapping[str, Any], results: Path) -> str:
    """Returns a table with its machine, date, notes and command."""
    rows = selected(read_rows(results / f"{entry.get('data', name)}.csv"), entry.get("where", {}))
    if not rows:
        raise SystemExit(f"The table {name!r} has no rows. 'where' must match the CSV file. Correct tables.yaml.")
    machines = entry["machine"] if isinstance(entry["machine"], list) else [entry["machine"]]
    origin = f"Machine{'s' if len(machines) > 1 else ''} {' and '.join(machines)}, {entry['date']}."
    notes = " ".join([*([entry["notes"].strip()] if "notes" in entry else []), origin])
    lines = [f"<!-- table: {name} -->", "", *table(rows, entry.get("columns")), "", notes, ""]
    if "command" in entry:
        lines += ["```bash", *entry["command"].strip().splitlines(), "```", ""]
    return "\n".join([*lines, "<!-- end -->"])


def updated(text: str, tables: Mapping[str, Any], results: Path) -> str:
    """Returns the text of a page with all its tables written again."""

    def written(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in tables:
            raise SystemExit(f"There is no table {name!r}. Tables are listed in tables.yaml. Add an entry.")
        return block(name, tables[name], results)

    return MARKED.sub(written, text)


def main(args: Sequence[str] | None = None) -> int:
    """Updates the pages, or with --check names those that are out of date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 3 if a page is out of date")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the CSV files and of tables.yaml")
    parser.add_argument("--pages", type=Path, default=PAGES, help="folder of the pages")
    options = parser.parse_args(args)
    tables = yaml.safe_load((options.results / "tables.yaml").read_text(encoding="utf-8"))["tables"]
    pages = {path: path.read_text(encoding="utf-8") for path in sorted(options.pages.glob("*.md"))}
    marked = {name for text in pages.values() for name in MARKED.findall(text)}
    if tables.keys() - marked:
        raise SystemExit(f"No page shows {', '.join(sorted(tables.keys() - marked))}. Add the markers to a page.")
    changed = {path: new for path, text in pages.items() if (new := updated(text, tables, options.results)) != text}
    for path, text in changed.items():
        if not options.check:
            path.write_text(text, encoding="utf-8")
        print(f"{path.name} {'is out of date' if options.check else 'updated'}")
    return OUT_OF_DATE if options.check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
