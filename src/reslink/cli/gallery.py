"""The gallery of a run: where the network looked in some right and some wrong test cases."""

from __future__ import annotations

import csv
import json
import tempfile
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from reslink.files import write_atomic, write_json

if TYPE_CHECKING:
    from reslink.cli.console import Bar, Lines
    from reslink.datasets.manifest import Manifest

METHODS = ("final", "grad_cam")
RIGHT = WRONG = 4


def write_gallery(run: Path, cases: Manifest, device: str, progress: Bar | Lines) -> None:
    """Writes ``figures/gallery_*.png`` and ``figures/sanity.json``, which the page shows.

    Args:
        run: The run folder, with ``predictions.csv`` and ``bundle/``.
        cases: The cases judged.
        device: Where the network runs.
        progress: Hears how far it is.
    """
    from reslink.explain.run import explain_paths
    from reslink.inference.classifier import Classifier

    chosen = choose(run / "predictions.csv")
    by_name = {case.name: case for case in cases.cases}
    paths = [by_name[row["sample_id"]].path for row in chosen]
    masks = {str(case.path): case.mask for case in by_name.values() if case.mask is not None}
    figures = run / "figures"
    for old in figures.glob("gallery*.png"):
        old.unlink()
    progress.start(len(chosen), "Drawing where it looks")
    try:
        with tempfile.TemporaryDirectory(prefix="reslink-") as folder:
            classifier = Classifier.load(run / "bundle", device=device)
            done = explain_paths(classifier, paths, folder, methods=METHODS, masks=masks, progress=lambda _: progress.step())
            for number, (row, explanation) in enumerate(zip(chosen, done, strict=True), start=1):
                if explanation.panel is not None:
                    picture = (Path(folder) / explanation.panel).read_bytes()
                    write_atomic(figures / f"gallery_{number}_{_words(row)}.png", picture)
            found = json.loads((Path(folder) / "explain.json").read_text(encoding="utf-8"))
            write_json(figures / "sanity.json", found["randomisation_checks"])
    finally:
        progress.end()


def choose(predictions: Path) -> list[dict[str, str]]:
    """Returns the wrong cases that were surest, then right ones of each class in turn, last class and surest first.

    Args:
        predictions: The table ``predictions.csv`` of a run.
    """
    with predictions.open(newline="", encoding="utf-8") as stream:
        rows = sorted(csv.DictReader(stream), key=_sureness, reverse=True)
    wrong = [row for row in rows if row["prediction"] != row["label"]]
    by_class: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        if row["prediction"] == row["label"]:
            by_class.setdefault(row["label"], []).append(row)
    in_turn = zip_longest(*(by_class[label] for label in sorted(by_class, reverse=True)))
    right = [row for turn in in_turn for row in turn if row is not None]
    return [*wrong[:WRONG], *right[:RIGHT]]


def _sureness(row: dict[str, str]) -> float:
    return float(row.get(f"p_{row['prediction']}") or 0)


def _words(row: dict[str, str]) -> str:
    right = row["prediction"] == row["label"]
    words = f"{'right' if right else 'wrong'}_{row['label']}_called_{row['prediction']}"
    return "".join(letter if letter.isalnum() else "_" for letter in words)[:80]
