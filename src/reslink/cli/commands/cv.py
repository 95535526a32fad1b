"""``reslink cv``: cross-validation, and an ensemble of the networks of all folds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reslink.cli.cluster_options import On, check_address
from reslink.cli.console import Console
from reslink.cli.experiment_output import print_experiment
from reslink.cli.options import (
    FOLDER,
    AllowConflicts,
    Columns,
    Corrections,
    DataSets,
    Epochs,
    Init,
    Jobs,
    Json,
    LabelMap,
    Recipe,
    Root,
    Set,
    TrainedNetwork,
    Unit,
    set_training_environment,
)
from reslink.cores import available_cores

EXAMPLES = (
    "reslink cv images/ --out cv --folds 5",
    "reslink cv cohort.csv --out cv --folds 5 --holdout 0.15 --seeds 3 --jobs 2",
    "reslink cv images/ --out cv --distill --recipe context_5",
    "reslink cv clinic-a/ clinic-b/ --out cv --folds 5",
)


def cv(
    console: Console,
    data: DataSets,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="DIR", help="Folder of the runs, the report and the bundle.", show_default=False),
        FOLDER,
    ],
    folds: Annotated[
        int | None,
        typer.Option("--folds", min=3, max=100, metavar="K", help="Number of folds; default: that of the recipe, or 5."),
    ] = None,
    holdout: Annotated[
        float | None,
        typer.Option(
            "--holdout",
            metavar="SHARE",
            help="Share of a hold-out that is in no fold, up to 0.5; the ensemble is evaluated on it. Default: none.",
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, metavar="N", help="Number of seeds; each fold is trained once with each.")
    ] = 1,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", min=0, help="First of the seeds, also that of the folds; default: that of the recipe.", show_default=False
        ),
    ] = None,
    distill: Annotated[
        bool, typer.Option("--distill", help="Also train a single network on labels and out-of-fold probabilities.")
    ] = False,
    label_map: LabelMap = None,
    corrections: Corrections = None,
    columns: Columns = None,
    root: Root = None,
    unit: Unit = None,
    recipe: Recipe = None,
    sets: Set = None,
    network: TrainedNetwork = None,
    init: Init = None,
    epochs: Epochs = None,
    allow_conflicts: AllowConflicts = False,
    jobs: Jobs = None,
    on: On = None,
    json: Json = False,
) -> None:
    """Cross-validate a recipe, and make an ensemble of the networks of all folds.

    Folds keep patients and near duplicates together. Each image is predicted by the network of its fold, which was not trained
    on it. Run the same command again to continue after an interruption.
    """
    set_training_environment()
    from reslink.api.cv import cv as cross_validate

    result = cross_validate(
        data,
        out,
        map=label_map,
        corrections=corrections,
        columns=columns,
        root=root,
        unit=unit,
        folds=folds,
        seeds=seeds,
        seed=seed,
        holdout=holdout,
        distill=distill,
        recipe=recipe,
        settings=sets or (),
        network=network,
        init=init,
        epochs=epochs,
        allow_conflicts=allow_conflicts,
        jobs=jobs or (0 if on else available_cores()),
        on=check_address(on),
        progress=console.progress(),
    )
    if not json:
        for name in ("bundle", "distilled", "predictions"):
            if result[name] is not None:
                console.note(f"{name}: {result[name]}")
    print_experiment(console, result, {"report": out / "report.html"}, json)
