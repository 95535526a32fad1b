"""``reslink split``: divides a data set so that no patient and no near copy stands on two sides."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from reslink.cli.console import Console
from reslink.cli.options import Data, Json
from reslink.errors import UsageError

if TYPE_CHECKING:
    from reslink.datasets.manifest import Manifest
    from reslink.datasets.near_duplicates.thumbnails import Thumbnails

EXAMPLES = (
    "reslink split images/ --out split.csv",
    "reslink split cohort.csv --out split.csv --fractions 0.8 0.1 0.1 --seed 3",
    "reslink split cohort.csv --out folds.csv --folds 5 --group-by patient",
)
FRACTIONS = (0.7, 0.15, 0.15)


def split(
    console: Console,
    data: Data,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The CSV to write.", show_default=False)],
    fractions: Annotated[
        tuple[float, float, float] | None,
        typer.Option(
            "--fractions", metavar="TRAIN VALIDATION TEST", help="Shares that sum to 1.", show_default="0.7 0.15 0.15"
        ),
    ] = None,
    folds: Annotated[
        int | None, typer.Option("--folds", metavar="K", help="Folds of a cross-validation instead.", show_default=False)
    ] = None,
    group_by: Annotated[
        Literal["both", "patient", "twin", "none"], typer.Option("--group-by", help="What stays on one side.")
    ] = "both",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Chooses among equally good divisions.")] = 0,
    keep_given: Annotated[
        bool, typer.Option("--keep-given", help="Keep the sides that DATA states; take a missing one from its training cases.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there.")] = False,
    json: Json = False,
) -> None:
    """Divide a data set into train, validation and test, or into folds, and write it as a CSV for train and evaluate.

    All images of a patient, known from the table or from DICOM headers, and near copies (mirrored, rotated, re-encoded, …),
    stay on one side; each class has the same share on every side. All columns are kept; group, split and fold are added; paths
    are relative to the CSV.
    """
    from reslink.datasets.grouping import group_cases
    from reslink.datasets.manifest import Manifest
    from reslink.datasets.patient_ids import with_header_patients
    from reslink.datasets.printable_names import listable
    from reslink.datasets.split_table import new_columns, without_given_split, write_table

    _check_options(out, fractions, folds, keep_given, overwrite)
    manifest, left_out = listable(Manifest.open(data))
    manifest, note = with_header_patients(manifest)
    if note:
        console.warn(f"Patients: {note}.")
    thumbnails = None
    if group_by in ("both", "twin"):
        manifest, thumbnails, unreadable = _seen(console, manifest, out)
        left_out |= unreadable
    if keep_given and not any(case.split for case in manifest.cases):
        raise UsageError(
            "--keep-given was set, and the data states no split",
            "A stated split is a column 'split' with train, validation or test, or folders Training and Testing",
            "Correct the column, or leave --keep-given out",
        )
    groups = group_cases(manifest, thumbnails, group_by, alike=not keep_given)
    cases = manifest if keep_given else without_given_split(manifest)
    added = new_columns(cases, groups, fractions or FRACTIONS, folds, seed)
    write_table(out, manifest, added)
    options = {"group_by": group_by, "seed": seed, "folds": folds, "fractions": None if folds else fractions or FRACTIONS}
    _say(console, _summary(manifest, added, out) | options | {"left_out": left_out}, json)
    if left_out:
        raise typer.Exit(1)


def _check_options(
    out: Path, fractions: tuple[float, float, float] | None, folds: int | None, keep_given: bool, overwrite: bool
) -> None:
    if folds is not None and (fractions or keep_given):
        other = "--fractions" if fractions else "--keep-given"
        raise UsageError(f"--folds and {other} were both given", "Folds have equal sizes, and are new", "Choose one of them")
    if out.is_dir():
        raise UsageError(f"{out} is a folder", "--out names a CSV file", f"Write --out {out / 'split.csv'}")
    if out.exists() and not overwrite:
        raise UsageError(f"{out} exists", "Nothing is replaced unasked", "Choose another --out, or add --overwrite")


def _seen(console: Console, manifest: Manifest, out: Path) -> tuple[Manifest, Thumbnails, dict[str, str]]:
    """Reads every image once; returns the cases that could be read, their thumbnails, and why others could not."""
    import numpy as np

    from reslink.datasets.cache.pixel_cache import PixelCache
    from reslink.datasets.near_duplicates.thumbnails import SIDE
    from reslink.imaging.preprocess import Preprocess
    from reslink.training.monitoring.progress import so_far

    progress = console.progress()
    out.parent.mkdir(parents=True, exist_ok=True)
    progress.start(len(manifest), "Reading images")
    try:
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".cache-") as folder:
            cache = PixelCache.open(manifest, Preprocess(size=SIDE, channels=1), folder, progress=so_far(progress))
            return cache.manifest, np.array(cache.thumbnails), cache.failed
    finally:
        progress.end()


def _summary(manifest: Manifest, added: dict[str, list[str]], out: Path) -> dict[str, Any]:
    images = Counter(zip(added["split"], (case.label for case in manifest.cases), strict=True))
    sides = [side for side in ("train", "validation", "test") if side in added["split"]]
    pairs = set(zip(added["split"], added["group"], strict=True))
    return {
        "out": str(out),
        "n": len(manifest),
        "n_groups": len(set(added["group"])),
        "n_patients": len({case.patient_id for case in manifest.cases} - {None}),
        "images": {side: {label: images[side, label] for label in manifest.labels.names} for side in sides},
        "groups": {side: sum(where == side for where, _ in pairs) for side in sides},
        "fold_sizes": [n for _, n in sorted(Counter(map(int, added["fold"])).items())] if "fold" in added else None,
        "research_use_only": True,
    }


def _say(console: Console, summary: dict[str, Any], json: bool) -> None:
    for name, reason in summary["left_out"].items():
        console.warn(f"{name} is left out: {reason}")
    if summary["group_by"] in ("patient", "both") and not summary["n_patients"]:
        kept = "only near copies are kept together" if summary["group_by"] == "both" else "each image is a group of its own"
        console.warn(f"No case has a patient_id, in the table or in a DICOM header: {kept}.")
    if summary["group_by"] == "none":
        console.warn("Nothing is kept together: figures on this split may be inflated. train refuses it if a group is torn.")
    if json:
        console.json(summary, indent=2)
        return
    labels = list(next(iter(summary["images"].values())))
    rows = [
        (side, *(str(counts[label]) for label in labels), str(sum(counts.values())), str(summary["groups"][side]))
        for side, counts in summary["images"].items()
    ]
    console.table(("split", *(f">{label}" for label in labels), ">images", ">groups"), rows, title=f"{summary['n']} images")
    if summary["fold_sizes"]:
        console.note(f"folds: {', '.join(map(str, summary['fold_sizes']))} images")
    console.note(f"written: {summary['out']}")
    console.research_use_only()
