"""``reslink train``: trains and evaluates a classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reslink.cli.cluster_options import On, check_address
from reslink.cli.console import Console
from reslink.cli.offline import check_sockets
from reslink.cli.options import (
    FOLDER,
    AllowConflicts,
    AllowLeakage,
    Cache,
    Case,
    Columns,
    Corrections,
    DataSets,
    Epochs,
    Init,
    Json,
    LabelColumns,
    LabelMap,
    Overwrite,
    Recipe,
    Resume,
    Root,
    Seed,
    Set,
    TrainedNetwork,
    Unit,
)

EXAMPLES = (
    "reslink train images/ --out runs/first",
    "reslink train images/ --out runs/first --resume",
    "reslink train clinic-a/ clinic-b/ --out runs/both --map clinic-b:bleed=Tumor",
    "reslink train images/ --out runs/first --track tensorboard --track mlflow",
    "reslink train cohort.csv --out runs/bleeds --labels epidural,subdural",
    "reslink train images/ --out runs/densenet --network densenet121",
    "reslink train images/ --out runs/own --network nets.py:build --set model.options.width=32",
    "reslink train images/ --out runs/tuned --init ct --freeze stem",
    "reslink train series.csv --out runs/series --case series --batch-size 4",
    "reslink train images/ --out runs/large --on ray --processes 4 --cache decoded",
    "reslink train cohort.csv --out runs/paper --epochs 5 --seed 1 --set model.variant=reslink_paper",
)


def train(
    console: Console,
    data: DataSets,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="RUN", help="Run folder.", show_default=False), FOLDER],
    label_map: LabelMap = None,
    corrections: Corrections = None,
    columns: Columns = None,
    root: Root = None,
    unit: Unit = None,
    recipe: Recipe = None,
    sets: Set = None,
    labels: LabelColumns = None,
    network: TrainedNetwork = None,
    init: Init = None,
    freeze: Annotated[
        str | None,
        typer.Option("--freeze", metavar="MODULES", help="Modules of the parent that are not trained, such as stem,stages.1."),
    ] = None,
    epochs: Epochs = None,
    seed: Seed = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            "-b",
            help="Number of images or series per training step; default: that of the recipe.",
            show_default=False,
        ),
    ] = None,
    case: Case = None,
    device: Annotated[
        str | None,
        typer.Option("--device", help="Device: auto, cpu, cuda or mps; default: that of the recipe.", show_default=False),
    ] = None,
    allow_leakage: AllowLeakage = False,
    allow_conflicts: AllowConflicts = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
    cache: Cache = None,
    on: On = None,
    processes: Annotated[
        int | None,
        typer.Option(
            "--processes",
            min=1,
            metavar="N",
            help="Number of processes of --on; each has a core, or a GPU with --device cuda.",
            show_default=False,
        ),
    ] = None,
    track: Annotated[
        list[str] | None,
        typer.Option(
            "--track",
            metavar="TRACKER",
            help="Record the run in its folder for tensorboard, mlflow or wandb; repeatable. Default: none.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Train a classifier, evaluate it on held-out cases, and write report.html.

    Cases are split by patient, and near duplicates stay in one split. Ctrl-C saves the state; --resume continues from there.
    """
    from reslink.api.train import train as train_run
    from reslink.cli.metrics_table import print_run_summary

    if "wandb" in (track or ()):
        check_sockets("--track wandb", "wandb passes its records to a process of its own through a socket")
    summary = train_run(
        data,
        out,
        map=label_map,
        corrections=corrections,
        columns=columns,
        root=root,
        unit=unit,
        recipe=recipe,
        settings=sets or (),
        labels=labels,
        network=network,
        init=init,
        freeze=[name.strip() for name in freeze.split(",")] if freeze else (),
        epochs=epochs,
        seed=seed,
        batch_size=batch_size,
        case=case,
        device=device,
        allow_leakage=allow_leakage,
        allow_conflicts=allow_conflicts,
        resume=resume,
        overwrite=overwrite,
        cache=cache,
        on=check_address(on),
        processes=processes,
        track=track or (),
        progress=console.progress(),
    )
    if not summary:  # not the first process of a distributed training
        raise typer.Exit
    print_run_summary(console, summary, json)
