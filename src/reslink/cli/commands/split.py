"""``reslink split``: splits a data set without leakage."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from reslink.cli.console import Console
from reslink.cli.options import AllowConflicts, Case, Columns, Corrections, DataSets, Json, LabelColumns, LabelMap, Root, Unit
from reslink.datasets.case import DEFAULT_FRACTIONS

EXAMPLES = (
    "reslink split images/ --out split.csv",
    "reslink split cohort.csv --out split.csv --fractions 0.8 0.1 0.1 --seed 3",
    "reslink split cohort.csv --out folds.csv --folds 5 --group-by patient",
    "reslink split clinic-a/ clinic-b/ --out split.csv",
    "reslink split cohort.csv --out split.csv --labels epidural,subdural",
    "reslink split series.csv --out split.csv --case series",
)


def split(
    console: Console,
    data: DataSets,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="CSV file to write.", show_default=False)],
    label_map: LabelMap = None,
    corrections: Corrections = None,
    columns: Columns = None,
    root: Root = None,
    unit: Unit = None,
    labels: LabelColumns = None,
    case: Case = None,
    fractions: Annotated[
        tuple[float, float, float] | None,
        typer.Option(
            "--fractions",
            metavar="TRAIN VALIDATION TEST",
            help="Shares of the splits; their sum is 1.",
            show_default=" ".join(map(str, DEFAULT_FRACTIONS)),
        ),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            "--folds", min=2, metavar="K", help="Number of cross-validation folds, instead of --fractions.", show_default=False
        ),
    ] = None,
    holdout: Annotated[
        float,
        typer.Option("--holdout", metavar="SHARE", help="Share of a hold-out that is in no fold, up to 0.5, with --folds."),
    ] = 0.0,
    group_by: Annotated[
        Literal["patient", "duplicate", "both", "scan", "none"],
        typer.Option(
            "--group-by",
            help="Which cases stay in one split: those of a patient, near duplicates, both, both and probable scans, or none.",
        ),
    ] = "both",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed that selects among equally good splits.")] = 0,
    keep_given: Annotated[
        bool,
        typer.Option("--keep-given", help="Keep the split of DATA; a missing split is drawn from the training cases."),
    ] = False,
    allow_conflicts: AllowConflicts = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Overwrite an existing file.")] = False,
    json: Json = False,
) -> None:
    """Split a data set into train, validation and test, or into folds, and write it as a CSV.

    All images of a patient (from the table or DICOM headers) and all near duplicates stay in one split. The classes have the
    same shares in every split. The CSV keeps all columns and adds group, split and, with --folds, fold; paths are relative to
    the CSV.
    """
    from reslink.api.split import split as split_data

    summary = split_data(
        data,
        out,
        map=label_map,
        corrections=corrections,
        columns=columns,
        root=root,
        unit=unit,
        labels=labels,
        case=case or "slice",
        fractions=fractions,
        folds=folds,
        holdout=holdout,
        group_by=group_by,
        seed=seed,
        keep_given=keep_given,
        allow_conflicts=allow_conflicts,
        overwrite=overwrite,
        progress=console.progress(),
    )
    _print_summary(console, summary, json)
    if summary["left_out"]:
        raise typer.Exit(1)


def _print_summary(console: Console, summary: dict[str, Any], json: bool) -> None:
    for name, reason in summary["left_out"].items():
        console.warn(f"{name} is skipped: {reason}")
    if summary["group_by"] in ("patient", "both") and not summary["n_patients"]:
        kept = "only near duplicates are kept together" if summary["group_by"] == "both" else "each image is its own group"
        hint = "" if summary["case"] == "series" else "; --group-by scan also keeps probable scans together"
        console.warn(f"No case has a patient_id in the table or in a DICOM header: {kept}{hint}.")
    if summary["group_by"] == "scan":
        console.warn("Images without a patient_id are grouped by probable scans, which are guessed from the pictures.")
    if summary["group_by"] == "none":
        console.warn(
            "Nothing is kept together: metrics on this split may be too high. reslink train refuses a split with leakage."
        )
    if json:
        console.json(summary, indent=2)
        return
    labels = list(next(iter(summary["images"].values())))
    rows = [
        (name, *(str(counts[label]) for label in labels), str(summary["split_sizes"][name]), str(summary["groups"][name]))
        for name, counts in summary["images"].items()
    ]
    noun = "series" if summary["case"] == "series" else "images"
    console.table(("split", *(f">{label}" for label in labels), f">{noun}", ">groups"), rows, title=f"{summary['n']} {noun}")
    if summary["fold_sizes"]:
        console.note(f"folds: {', '.join(map(str, summary['fold_sizes']))} {noun}")
    console.note(f"written: {summary['out']}")
    console.research_use_only()
