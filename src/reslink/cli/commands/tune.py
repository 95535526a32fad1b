"""``reslink tune``: searches recipe settings."""

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
    Data,
    Epochs,
    Init,
    Json,
    Recipe,
    Root,
    Seed,
    Set,
    TrainedNetwork,
    Unit,
    set_training_environment,
)

EXAMPLES = (
    "reslink tune images/ --out tuned --trials 20",
    "reslink tune images/ --out tuned --minutes 120 --preset good --jobs 4",
    "reslink tune cohort.csv --out tuned --trials 40 --space space.yaml --recipe small --folds 4",
)


def tune(
    console: Console,
    data: Data,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of the search.", show_default=False), FOLDER],
    trials: Annotated[
        int | None,
        typer.Option(
            "--trials", "-n", metavar="N", help="Number of trials, those of earlier calls included.", show_default=False
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            "--minutes",
            metavar="M",
            help="Minutes after which no further trial begins; instead of --trials.",
            show_default=False,
        ),
    ] = None,
    space: Annotated[
        Path | None,
        typer.Option(
            "--space",
            metavar="FILE",
            help="Space in YAML: recipe keys and their values; instead of --preset.",
            show_default=False,
        ),
    ] = None,
    preset: Annotated[
        str | None,  # not a Literal: the error suggests the nearest name
        typer.Option("--preset", metavar="NAME", help="Space of reslink: quick, good or best.", show_default="quick"),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "-j", min=1, help="Number of parallel trials with one thread each.", show_default="1"),
    ] = None,
    on: On = None,
    folds: Annotated[int, typer.Option("--folds", metavar="K", help="Number of folds of each trial, at least 3.")] = 5,
    holdout: Annotated[
        float,
        typer.Option("--holdout", metavar="SHARE", help="Share of the images that no trial sees; a given test split is used."),
    ] = 0.2,
    columns: Columns = None,
    root: Root = None,
    unit: Unit = None,
    recipe: Recipe = None,
    sets: Set = None,
    network: TrainedNetwork = None,
    init: Init = None,
    epochs: Epochs = None,
    seed: Seed = None,
    allow_conflicts: AllowConflicts = False,
    json: Json = False,
) -> None:
    """Search the recipe settings with the highest AUROC on grouped folds, and evaluate the best once on a hold-out.

    The first trial is the base recipe; trials that are worse than the best one are stopped early. Run the same command again
    to continue after an interruption; several processes can work on one folder. Exit code 1 if a trial failed; trials that
    diverged are reported only.
    """
    set_training_environment()
    from reslink.api.tune import tune as search

    result = search(
        data,
        out,
        trials=trials,
        minutes=minutes,
        space=space,
        preset=preset,
        folds=folds,
        holdout=holdout,
        columns=columns,
        root=root,
        unit=unit,
        recipe=recipe,
        settings=sets or (),
        network=network,
        init=init,
        epochs=epochs,
        seed=seed,
        allow_conflicts=allow_conflicts,
        jobs=jobs or (0 if on else 1),
        on=check_address(on),
        progress=console.progress(),
    )
    paths = {"recipe": result["best"]["recipe"], "bundle": result["best"]["bundle"], "page": result["page"]}
    print_experiment(console, result, paths, json, remark="Note")
