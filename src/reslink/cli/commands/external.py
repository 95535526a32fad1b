"""``reslink external``: a frozen model on data of other hospitals."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reslink.cli.console import Console
from reslink.cli.experiment_output import locked, print_experiment
from reslink.cli.options import BundleFolder, Columns, Device, Json, OutFolder, Overwrite, Root, Unit
from reslink.datasets.label_map import parse_label_map

EXAMPLES = (
    "reslink external ct hospital-b/ hospital-c.csv --out external",
    "reslink external runs/ct mri/ --internal ct/ --map no_tumor=Healthy --map glioma=Tumor --out external --json",
)


def external(
    console: Console,
    bundle: BundleFolder,
    others: Annotated[
        list[Path],
        typer.Argument(metavar="DATA...", help="Data sets of another hospital, scanner or modality.", show_default=False),
    ],
    out: OutFolder,
    maps: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="LABEL=CLASS",
            help="Class of the bundle for a label of the other data, or of one data set with SET:LABEL=CLASS; LABEL= skips its "
            "cases; repeatable.",
            show_default=False,
        ),
    ] = None,
    internal: Annotated[
        Path | None,
        typer.Option("--internal", metavar="DATA", help="Data set like the training data, for comparison.", show_default=False),
    ] = None,
    columns: Columns = None,
    root: Root = None,
    unit: Unit = None,
    by: Annotated[
        list[str] | None,
        typer.Option(
            "--by",
            metavar="COLUMN",
            help="Also compute metrics for each value of this column, which every data set has; repeatable.",
            show_default=False,
        ),
    ] = None,
    images: Annotated[
        int, typer.Option("--images", min=0, help="Number of images per data set, drawn at random; 0 for all.")
    ] = 0,
    device: Device = "auto",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the drawn images and patients.")] = 0,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Evaluate a frozen model on data of other hospitals: drop, coverage, silent errors, and how the data differ.

    Images that the model was trained on, and their near duplicates, are left out. The report also has subgroups by source
    and by columns of 0 and 1, and what refitting the threshold to 5 to 40 labeled local patients would change.
    """
    from reslink.bundles.bundle import Bundle

    label_map = parse_label_map(maps or ())
    loaded = Bundle.load(bundle)
    loaded.require_slices("reslink external")
    for name in filter(None, label_map.values()):
        loaded.labels.index(name)  # raises for an unknown class
    from reslink.experiments.external.external import ExternalOptions, check_out, evaluate_external

    check_out(out, overwrite)
    with locked(console, out) as progress:
        options = ExternalOptions(label_map, internal, images or None, device, seed, columns, root, unit, tuple(by or ()))
        result = evaluate_external(bundle, others, out, options, progress)
    print_experiment(console, result, {"report": out / "report.html"}, json)
