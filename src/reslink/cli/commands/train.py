"""``reslink train``: from images to a model, its figures and its page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reslink.cli.command import refuse_file
from reslink.cli.console import Console
from reslink.cli.options import AllowLeakage, Data, Json, Overwrite, Recipe, Resume, Seed, Set

EXAMPLES = (
    "reslink train images/ --out runs/first",
    "reslink train images/ --out runs/first --resume",
    "reslink train cohort.csv --out runs/paper --epochs 5 --seed 1 --set model.variant=reslink_paper",
)


def train(
    console: Console,
    data: Data,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="RUN", help="Folder of the run.", show_default=False)],
    recipe: Recipe = None,
    sets: Set = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="How often each image is seen.", show_default=False)] = None,
    seed: Seed = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", "-b", help="Images a step.", show_default=False)] = None,
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or mps.", show_default=False)] = None,
    allow_leakage: AllowLeakage = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Train a classifier on a folder of class folders or a CSV, judge it on held-out cases, and write report.html.

    The cases are split by patient; near copies stay together. Ctrl-C saves the state, and --resume goes on from it.
    """
    refuse_file(out, "--out")
    from reslink.cli.pipeline import learn, summarise
    from reslink.datasets.manifest import Manifest
    from reslink.training.recipe.recipe import load_recipe

    own = {"trainer.epochs": epochs, "seed": seed, "trainer.batch_size": batch_size, "trainer.device": device}
    own |= {"data.allow_leakage": "true" if allow_leakage else None}
    chosen = [*(sets or []), *(f"{key}={value}" for key, value in own.items() if value is not None)]
    settings = load_recipe(recipe, chosen)
    manifest = Manifest.open(data, class_order=settings.data.class_order)
    summary = learn(console, manifest, settings, out, resume=resume, overwrite=overwrite)
    summarise(console, summary, json)
