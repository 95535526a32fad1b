"""``reslink demo``: the whole way on synthetic heads, from images to a page."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from reslink.cli.command import refuse_file
from reslink.cli.console import Console
from reslink.cli.options import Json, Overwrite, Resume, Set

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
"""Where the demo differs from the default recipe: small images, many steps, lesion masks that guide the attention."""


def demo(
    console: Console,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to write.")] = Path("demo"),
    patients: Annotated[int, typer.Option("--patients", min=12, help="How many synthetic patients.")] = 128,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of everything random.")] = 0,
    sets: Set = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Make synthetic CT heads, train, judge, explain, predict new heads, and write DIR/report.html."""
    refuse_file(out, "--out")
    from reslink.cli.pipeline import learn, predict_to_csv, summarise
    from reslink.datasets.manifest import Manifest
    from reslink.training.recipe.recipe import load_recipe
    from reslink.training.run_folder import RunFolder

    began = time.monotonic()
    recipe = load_recipe(None, [*RECIPE, *(sets or ()), f"seed={seed}"])
    heads, fresh = out / "heads", out / "new"
    with RunFolder(out).claimed(resume=resume, overwrite=overwrite):  # a refusal leaves the heads of the run that stands there
        _draw(console, heads, patients, seed)
    summary = learn(console, Manifest.open(heads), recipe, out, resume=resume, overwrite=overwrite)
    _draw(console, fresh, 4, (seed + 1_000_003) % 2**32)
    table = predict_to_csv(console, out / "bundle", [fresh / "images"], fresh / "predictions.csv")
    summarise(console, summary | {"new_heads": str(table), "seconds": round(time.monotonic() - began)}, json)


def _draw(console: Console, folder: Path, patients: int, seed: int) -> None:
    from reslink.datasets.phantom.cohort import PhantomSettings, make_cohort

    progress = console.progress()
    progress.start(patients, f"Drawing {patients} patients")
    try:
        make_cohort(folder, PhantomSettings.parse({"patients": patients, "seed": seed}), progress=lambda *_: progress.step())
    finally:
        progress.end()
