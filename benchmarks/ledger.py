"""Adds an evaluation of a shipped model to its ledger and its card: on other hospitals, or on a held-out part of a source.

    python benchmarks/ledger.py ct DATA/ct_rsna
    python benchmarks/ledger.py mri4 DATA/mr_outside --map other= --columns sequence=
    python benchmarks/ledger.py ct HELD_OUT --title "ct_ich, held-out groups" --seen

The row goes to benchmarks/ledger.csv, whether the result is good or bad, and the bundle is written again with all of its rows.
Images that overlap with the training images are left out, as reslink evaluate does.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from make_bundles import LEDGER, LEDGER_NUMBERS, read_ledger, ship

from reslink.bundles import zoo
from reslink.bundles.bundle import Bundle
from reslink.bundles.pretrained import OutsideEvaluation, pretrained_info
from reslink.datasets.label_map import parse_label_map
from reslink.datasets.manifest import Manifest
from reslink.errors import ReslinkError, UsageError
from reslink.evaluation.evaluate import EvaluationOptions, evaluate_bundle

COLUMNS = ("model", "data", "date", "sha256", "n", "n_refused", "n_groups", "seen", *LEDGER_NUMBERS)


def append(name: str, entry: OutsideEvaluation, table: Path = LEDGER) -> None:
    """Adds a row; the same data and part of a model has one row, the latest."""
    rows = []
    if table.exists():
        with table.open(newline="", encoding="utf-8") as stream:
            rows = [row for row in csv.DictReader(stream) if (row["model"], row["data"]) != (name, entry.data)]
    cells = {key: "" if value is None else value for key, value in entry.model_dump().items()}
    rows.append({"model": name, **cells, "seen": "yes" if entry.seen else "no"})
    with table.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def evaluate(
    name: str, data: Path, maps: Sequence[str], title: str | None, columns: Sequence[str] | None = None, *, seen: bool
) -> OutsideEvaluation:
    """Evaluates a shipped model and returns the row of the ledger.

    Raises:
        ReslinkError: If the data cannot be used.
    """
    bundle = Bundle.load(name)
    manifest = Manifest.open(data, labels=bundle.labels, rename=parse_label_map(maps) or None, columns=columns)
    with tempfile.TemporaryDirectory(prefix="reslink-ledger-") as folder:
        evaluation = evaluate_bundle(bundle, manifest, Path(folder), EvaluationOptions(localization=False))
    stated = {"data": title or manifest.root.name, "date": f"{datetime.now(UTC):%Y-%m-%d}", "sha256": manifest.digest()}
    return OutsideEvaluation.of(evaluation, **stated, seen=seen)


def refresh(name: str, folder: Path = zoo.SHIPPED, table: Path = LEDGER) -> None:
    """Writes a shipped bundle again with the rows of the ledger; weights, decision and metrics stay.

    Raises:
        UsageError: If it is not a shipped bundle.
    """
    bundle = Bundle.load(folder / name)
    info = pretrained_info(bundle.provenance)
    if info is None:
        raise UsageError(f"{name} is no shipped model", "A ledger belongs to a shipped model", "See reslink models")
    described = info.model_copy(update={"ledger": read_ledger(name, table)}).model_dump(mode="json")
    ship(replace(bundle, provenance=bundle.provenance | {"pretrained": described}), folder / name)


def main(args: Sequence[str] | None = None) -> int:
    """Adds one row and prints it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="name of the shipped model")
    parser.add_argument("data", type=Path)
    parser.add_argument("--map", action="append", default=[], help="LABEL=CLASS; LABEL= leaves its images out")
    parser.add_argument("--columns", action="append", help="ROLE=COLUMN; ROLE= leaves it out, as for reslink evaluate")
    parser.add_argument("--title", help="name of the data in the ledger; default: its folder")
    parser.add_argument("--seen", action="store_true", help="a held-out part of a source that was trained on")
    options = parser.parse_args(args)
    try:
        entry = evaluate(options.model, options.data, options.map, options.title, options.columns, seen=options.seen)
    except ReslinkError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    append(options.model, entry)
    refresh(options.model)
    print(entry.model_dump_json(indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
