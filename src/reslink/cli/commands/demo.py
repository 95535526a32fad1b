"""``reslink demo``: trains, evaluates and explains a model on synthetic heads."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from reslink.cli.console import Console
from reslink.cli.options import FOLDER, Json, Overwrite, Resume, Set
from reslink.training.monitoring.progress import phase

EXAMPLES = (
    "reslink demo",
    "reslink demo --out elsewhere --set trainer.epochs=4",
)

RECIPE = (
    "preprocess.size=160",
    "trainer.batch_size=8",
    "trainer.epochs=20",
    "trainer.ema=0.99",
    "attention_supervision.weight=1",
    "attention_supervision.target=lesion",
)
"""Changes to the default recipe: small images, many steps, and attention supervised by lesion masks."""


def demo(
    console: Console,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Output folder."), FOLDER] = Path("demo"),
    patients: Annotated[int, typer.Option("--patients", min=12, help="Number of synthetic patients.")] = 128,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of images, split and training.")] = 0,
    sets: Set = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Make synthetic CT heads, train, evaluate, explain, predict new heads, and write DIR/report.html."""
    from reslink.api.predict import predict
    from reslink.api.train import run_training
    from reslink.cli.metrics_table import print_run_summary
    from reslink.datasets.manifest import Manifest
    from reslink.training.recipe.recipe import load_recipe
    from reslink.training.run_folder import RunFolder

    began = time.monotonic()
    recipe = load_recipe(None, [*RECIPE, *(sets or ()), f"seed={seed}"])
    heads, new_heads = out / "heads", out / "new"
    with RunFolder(out).locked(resume=resume, overwrite=overwrite):  # if refused, the heads of the existing run are kept
        _make_heads(console, heads, patients, seed)
    summary = run_training(
        Manifest.open(heads), recipe, out, out / "cache", resume=resume, overwrite=overwrite, progress=console.progress()
    )
    if not summary:  # not the first process of a distributed training
        raise typer.Exit
    _make_heads(console, new_heads, 4, (seed + 1_000_003) % 2**32)
    table = new_heads / "predictions.csv"
    predict(out / "bundle", new_heads / "images", csv=table)
    console.detail(f"Predicted: {table}")
    print_run_summary(console, summary | {"new_heads": str(table), "seconds": round(time.monotonic() - began)}, json)


def _make_heads(console: Console, folder: Path, patients: int, seed: int) -> None:
    from reslink.datasets.phantom.cohort import PhantomSettings, make_cohort

    progress = console.progress()
    with phase(progress, patients, "Drawing patients", "patient"):
        settings = PhantomSettings.parse({"patients": patients, "seed": seed})
        make_cohort(folder, settings, on_progress=lambda *_: progress.step(), overwrite=True)
