"""``reslink evaluate``: figures with intervals on a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from reslink.cli.command import refuse_earlier
from reslink.cli.console import Console
from reslink.cli.options import AllowLeakage, BatchSize, BundleFolder, Data, Device, Json, Overwrite

EXAMPLES = (
    "reslink evaluate runs/first/bundle other-hospital/ --out judged",
    "reslink evaluate runs/first/bundle cohort.csv --split test --out judged --json",
    "reslink evaluate runs/first/bundle cohort.csv --by scanner --by sex --out judged",
)


def evaluate(
    console: Console,
    bundle: BundleFolder,
    data: Data,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to write.", show_default=False)],
    split: Annotated[
        Literal["all", "train", "validation", "test"],
        typer.Option("--split", help="Only cases whose column 'split' says so."),
    ] = "all",
    by: Annotated[
        list[str] | None,
        typer.Option(
            "--by", metavar="COLUMN", help="Figures by the values of a column too; may be given again.", show_default=False
        ),
    ] = None,
    batch_size: BatchSize = 32,
    device: Device = "auto",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the bootstrap.")] = 0,
    allow_leakage: AllowLeakage = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Judge a bundle on a data set: each figure with its 95 % interval; writes evaluation.json and report.html."""
    from reslink.bundles.bundle import Bundle
    from reslink.cli.pipeline import figures, leaks
    from reslink.datasets.manifest import Manifest
    from reslink.datasets.patient_ids import with_header_patients
    from reslink.evaluation.evaluate import evaluate_bundle
    from reslink.reports.run.page import evaluation_report

    refuse_earlier(out, "evaluation.json", "an evaluation", overwrite)
    manifest, note = with_header_patients(Manifest.open(data, labels=Bundle.load(bundle).labels))
    if note:
        console.warn(f"Patients: {note}.")
    result = evaluate_bundle(
        bundle,
        manifest,
        out,
        device=device,
        split=None if split == "all" else split,
        by=by or (),
        batch_size=batch_size,
        seed=seed,
        allow_leakage=allow_leakage,
    )
    page = evaluation_report(out)
    for name, reason in result["failed"].items():
        console.warn(f"{name} is left out: {reason}")
    leaks(console, result["leakage"])
    for case in [*result["excluded"], *result["linked"]]:
        console.detail(f"{case['path']}: {case['reason']}")
    if json:
        console.json(result)
    else:
        figures(console, result["metrics"], tuple(result["metrics"]), f"{result['n']} images")
        console.note(f"report: {page}")
        console.research_use_only()
    if result["failed"]:
        raise typer.Exit(1)
