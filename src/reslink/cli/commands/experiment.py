"""``reslink study``: experiments of many training runs, each one command."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from reslink.cli.command import refuse_file
from reslink.cli.commands import experiment_bundle
from reslink.cli.console import Console
from reslink.cli.multi_value_options import Spread
from reslink.cli.options import Data, Json, Recipe, Set
from reslink.errors import UsageError

if TYPE_CHECKING:
    from reslink.experiments.runner.experiment import Setting

Out = Annotated[
    Path,
    typer.Option(
        "--out",
        "-o",
        metavar="DIR",
        help="Folder of studies; those of one data set share their runs in it.",
        show_default=False,
    ),
]
Seeds = Annotated[
    list[int], typer.Option("--seeds", metavar="N...", min=0, help="How many seeds; several numbers are the seeds themselves.")
]
Epochs = Annotated[int | None, typer.Option("--epochs", min=1, help="How often each image is seen.", show_default=False)]
Jobs = Annotated[
    int | None, typer.Option("--jobs", "-j", min=1, help="Runs at once, one thread each.", show_default="one a processor")
]

_SEEDS, _LENGTHS, _AREA_SIZES = [3], [5, 10, 20], [1, 14]
_PERCENT: list[float] = [5, 10, 25, 50, 100]

EXAMPLES = {
    "ablation": ("reslink study ablation images/ --out studies/ct --seeds 3 --jobs 2",),
    "epochs": ("reslink study epochs images/ --out studies/ct --epochs 5 10 20",),
    "leakage": ("reslink study leakage images/ --out studies/ct --seeds 3",),
    "shortcuts": ("reslink study shortcuts images/ --out studies/ct --seeds 0 1 2",),
    "data-size": ("reslink study data-size images/ --out studies/ct --percent 5 10 25 50 100",),
}


def ablation(
    console: Console,
    data: Data,
    out: Out,
    arms: Annotated[
        list[str] | None,
        typer.Option("--arms", metavar="ARM...", help="Only these beside the full network.", show_default=False),
    ] = None,
    area_sizes: Annotated[
        list[int], typer.Option("--area-sizes", metavar="N...", min=0, help="Areas to compare; 0 for none.")
    ] = _AREA_SIZES,
    seeds: Seeds = _SEEDS,
    epochs: Epochs = None,
    recipe: Recipe = None,
    sets: Set = None,
    jobs: Jobs = None,
    json: Json = False,
) -> None:
    """What is each part of the network worth? Trains it without one part at a time.

    Figures with intervals and tests, how steadily it trains, where attention lies in right and wrong cases, and what
    the borders between areas cost. Run the same command again to go on after an interruption.
    """
    from reslink.experiments.ablation.ablation import ablation as study

    sizes = [side for side in area_sizes if side]
    _run(
        console,
        "ablation",
        data,
        out,
        seeds,
        epochs,
        recipe,
        sets,
        jobs,
        json,
        lambda setting: study(setting, arms or (), sizes),
    )


def epochs(
    console: Console,
    data: Data,
    out: Out,
    epochs: Annotated[list[int], typer.Option("--epochs", metavar="N...", min=1, help="Lengths to compare.")] = _LENGTHS,
    seeds: Seeds = _SEEDS,
    recipe: Recipe = None,
    sets: Set = None,
    jobs: Jobs = None,
    json: Json = False,
) -> None:
    """Are five epochs enough, and is the network over- or under-fitted after them?"""
    from reslink.experiments.epochs import epochs as study

    _run(console, "epochs", data, out, seeds, None, recipe, sets, jobs, json, lambda setting: study(setting, epochs))


def leakage(
    console: Console,
    data: Data,
    out: Out,
    seeds: Seeds = _SEEDS,
    epochs: Epochs = None,
    recipe: Recipe = None,
    sets: Set = None,
    jobs: Jobs = None,
    json: Json = False,
) -> None:
    """How much better do figures look on a random split than on one that keeps patients and near copies together?"""
    from reslink.experiments.leakage import leakage as study

    _run(console, "leakage", data, out, seeds, epochs, recipe, sets, jobs, json, study)


def shortcuts(
    console: Console,
    data: Data,
    out: Out,
    seeds: Seeds = _SEEDS,
    epochs: Epochs = None,
    recipe: Recipe = None,
    sets: Set = None,
    jobs: Jobs = None,
    json: Json = False,
) -> None:
    """How much can a network tell without the brain? Trained on whole images, isolated heads, and what is no head."""
    from reslink.experiments.shortcuts import shortcuts as study

    _run(console, "shortcuts", data, out, seeds, epochs, recipe, sets, jobs, json, study)


def data_size(
    console: Console,
    data: Data,
    out: Out,
    percent: Annotated[
        list[float], typer.Option("--percent", metavar="N...", help="Parts of the patients to learn from.")
    ] = _PERCENT,
    same: Annotated[Literal["steps", "epochs"], typer.Option("--same", help="What is the same for each part.")] = "steps",
    seeds: Seeds = _SEEDS,
    epochs: Epochs = None,
    recipe: Recipe = None,
    sets: Set = None,
    jobs: Jobs = None,
    json: Json = False,
) -> None:
    """How do figures grow with the number of patients, and would more of them help?"""
    from reslink.experiments.data_size import data_size as study

    _run(
        console, "data-size", data, out, seeds, epochs, recipe, sets, jobs, json, lambda setting: study(setting, percent, same)
    )


_COMMANDS = {
    "ablation": ablation,
    "epochs": epochs,
    "leakage": leakage,
    "shortcuts": shortcuts,
    "data-size": data_size,
}


def _run(
    console: Console,
    name: str,
    data: Path,
    out: Path,
    seeds: Sequence[int],
    epochs: int | None,
    recipe: Path | None,
    sets: Sequence[str] | None,
    jobs: int | None,
    json: bool,
    study: Callable[[Setting], dict[str, Any]],
) -> None:
    """Opens what a study needs, runs it and says what came of it."""
    refuse_file(out / name, "--out")
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    from reslink.datasets.manifest import Manifest
    from reslink.experiments.runner.experiment import Setting
    from reslink.files import lock_folder
    from reslink.training.recipe.recipe import load_recipe

    settings = load_recipe(recipe, [*(sets or []), *([] if epochs is None else [f"trainer.epochs={epochs}"])])
    manifest = Manifest.open(data, class_order=settings.data.class_order)
    progress = console.progress()
    try:
        with lock_folder(out / name):
            result = study(
                Setting(manifest, settings, out, chosen_seeds(seeds), jobs or _jobs(settings.trainer.device), progress)
            )
    finally:
        progress.end()
    tell(console, result, out / name, json)


def chosen_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    """Returns 0 to N − 1 for a single N, else the numbers given.

    Raises:
        UsageError: If there is none.
    """
    if len(seeds) > 1:
        return tuple(seeds)
    if not seeds or seeds[0] < 1:
        raise UsageError("No seed is left", "A study needs at least one run of each arm", "Write --seeds 3")
    return tuple(range(seeds[0]))


def _jobs(device: str) -> int:
    """One run a processor, or one in all where they would share a GPU."""
    import torch

    if device not in ("auto", "cpu") or (device == "auto" and (torch.cuda.is_available() or torch.backends.mps.is_available())):
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def tell(console: Console, result: dict[str, Any], folder: Path, json: bool) -> None:
    """Says what a study found: one JSON object, or for people the answers and where the page is."""
    if json:
        console.json(result, indent=2)
    else:
        for sentence in result["answer"]:
            console.data(sentence)
    for one in result["failed"]:
        console.warn(f"Warning: {one['run']} failed: {one['reason']}")
    if not json:
        for sentence in result["not_done"]:
            console.note(f"Not done: {sentence}")
        console.note(f"report: {folder / 'report.html'}")
        console.research_use_only()
    if result["failed"]:
        raise typer.Exit(1)


def sub_app(examples: Callable[..., str], verb: Callable[..., Callable[..., None]]) -> typer.Typer:
    """Returns ``reslink study`` with its commands.

    Args:
        examples: Makes the end of a help text of commands.
        verb: Makes a function a command.
    """
    app = typer.Typer(
        no_args_is_help=True, help="Experiments of many runs, each one command: trained, tested and told in a page."
    )
    for name, function in _COMMANDS.items():
        app.command(name, cls=Spread, epilog=examples(*EXAMPLES[name]))(verb(function))
    app.command("robustness", cls=Spread, epilog=examples(*experiment_bundle.EXAMPLES["robustness"]))(
        verb(experiment_bundle.robustness)
    )
    app.command("transfer", epilog=examples(*experiment_bundle.EXAMPLES["transfer"]))(verb(experiment_bundle.transfer))
    return app
