"""``reslink experiment``: experiments of many training runs or evaluations, one command each."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import typer
from typer.core import TyperGroup

from reslink.cli.cluster_options import On, check_address
from reslink.cli.console import Console
from reslink.cli.experiment_output import locked, print_experiment
from reslink.cli.multi_value_options import MultiValueCommand
from reslink.cli.options import (
    FOLDER,
    AllowConflicts,
    BundleFolder,
    Columns,
    Corrections,
    Data,
    DataSets,
    Device,
    Epochs,
    Init,
    Jobs,
    Json,
    LabelMap,
    Overwrite,
    Recipe,
    Root,
    Set,
    Unit,
    set_training_environment,
)
from reslink.cores import available_cores
from reslink.datasets.label_map import parse_label_map
from reslink.errors import UsageError, check_choice

Out = Annotated[
    Path,
    typer.Option(
        "--out",
        "-o",
        metavar="DIR",
        help="Folder of the experiments; experiments on one data set share their runs in it.",
        show_default=False,
    ),
    FOLDER,
]
Seeds = Annotated[
    list[int],
    typer.Option("--seeds", metavar="N...", min=0, help="Number of seeds, or two or more seeds."),
]
DrawSeed = Annotated[int, typer.Option("--seed", min=0, help="Seed of the drawn images and the bootstrap.")]

Run: TypeAlias = Callable[[Any], dict[str, Any]]
"""Runs an :class:`reslink.experiments.runner.experiment.Experiment` and returns the contents of ``experiment.json``."""

_LENGTHS, _AREA_SIZES = [5, 10, 20], [1, 14]
_PERCENT: list[float] = [5, 10, 25, 50, 100]

EXAMPLES = {
    "ablation": ("reslink experiment ablation images/ --out experiments/ct --seeds 3 --jobs 2",),
    "epochs": ("reslink experiment epochs images/ --out experiments/ct --epochs 5 10 20",),
    "leakage": ("reslink experiment leakage images/ --out experiments/ct --seeds 3",),
    "shortcuts": ("reslink experiment shortcuts images/ --out experiments/ct --seeds 0 1 2",),
    "data-size": (
        "reslink experiment data-size images/ --out experiments/ct --percent 5 10 25 50 100",
        "reslink experiment data-size images/ --out experiments/tuned --init ct --images 50 100 200 --seeds 5",
    ),
    "leave-one-source-out": (
        "reslink experiment leave-one-source-out clinic-a/ clinic-b/ clinic-c/ --out experiments/ct --seeds 3",
        "reslink experiment leave-one-source-out images.csv --columns source=scanner --only GE --out experiments/ct",
    ),
    "robustness": (
        "reslink experiment robustness runs/first images/ --out experiments/ct",
        "reslink experiment robustness runs/first images/ --out experiments/ct --only noise jpeg --images 100",
    ),
}


@dataclass(frozen=True)
class TrainingOptions:
    """The options of every experiment that trains; each becomes an option of its command.

    Attributes:
        data: The data set, or several, which are joined.
        out: Folder of the experiments.
        label_map: Class of each label, as ``LABEL=CLASS``.
        corrections: A CSV of corrected labels.
        columns: Columns of the table by role.
        root: Folder that the paths in the table start from.
        unit: Unit of the images for which neither file nor table states one.
        seeds: Number of seeds, or the seeds.
        epochs: Number of epochs; None for the value of the recipe.
        init: The parent of fine-tuned runs; None to train from scratch.
        recipe: The recipe; None for the default recipe.
        sets: Changes to the recipe.
        allow_conflicts: Whether images with several labels are accepted.
        jobs: Number of parallel runs; None for one per core.
        on: A Ray cluster that trains; None for this machine without Ray.
        json: Whether the result is printed as JSON.
    """

    data: DataSets
    out: Out
    label_map: LabelMap = None
    corrections: Corrections = None
    columns: Columns = None
    root: Root = None
    unit: Unit = None
    seeds: Seeds = (3,)  # type: ignore[assignment]  # a dataclass refuses a list; typer makes one of it
    epochs: Epochs = None
    init: Init = None
    recipe: Recipe = None
    sets: Set = None
    allow_conflicts: AllowConflicts = False
    jobs: Jobs = None
    on: On = None
    json: Json = False


def ablation(
    conditions: Annotated[
        list[str] | None,
        typer.Option(
            "--conditions",
            metavar="NAME...",
            help="Conditions to compare with the full network; default: all.",
            show_default=False,
        ),
    ] = None,
    area_sizes: Annotated[
        list[int], typer.Option("--area-sizes", metavar="N...", min=0, help="Area sizes to compare; 0 for none.")
    ] = _AREA_SIZES,
) -> Run:
    """Measure what each part of the network contributes, by training without one part at a time.

    Reports metrics with intervals and tests, training stability, attention in correct and wrong cases, and the
    effect of area borders. Run the same command again to continue after an interruption.
    """
    from reslink.experiments.ablation.ablation import ablation as run

    return lambda experiment: run(experiment, conditions or (), [size for size in area_sizes if size])


def epochs(
    epochs: Annotated[
        list[int], typer.Option("--epochs", metavar="N...", min=1, help="Numbers of epochs to compare.")
    ] = _LENGTHS,
) -> Run:
    """Compare numbers of epochs, and detect over- and underfitting."""
    from reslink.experiments.epochs import epochs as run

    return lambda experiment: run(experiment, epochs)


def leakage() -> Run:
    """Measure how much a random split inflates the metrics, compared with a split without leakage."""
    from reslink.experiments.leakage import leakage as run

    return run


def shortcuts() -> Run:
    """Measure what a network can predict without the brain: train on whole images, on isolated heads and outside the head."""
    from reslink.experiments.shortcuts import shortcuts as run

    return run


def data_size(
    percent: Annotated[
        list[float], typer.Option("--percent", metavar="N...", help="Percentages of the training patients to compare.")
    ] = _PERCENT,
    same: Annotated[
        Literal["steps", "epochs"], typer.Option("--same", help="What all percentages have in common: steps or epochs.")
    ] = "steps",
    images: Annotated[
        list[int] | None,
        typer.Option(
            "--images", metavar="N...", min=1, help="Numbers of training images to compare, about, instead of percentages."
        ),
    ] = None,
) -> Run:
    """Measure how the metrics grow with the number of patients.

    With --init, each size is trained from scratch and fine-tuned, on the same images.
    """
    from reslink.experiments.data_size import data_size as run

    return lambda experiment: run(experiment, percent, same, images or ())


def leave_one_source_out(
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="SOURCE...", help="Sources to leave out; default: each in turn.", show_default=False),
    ] = None,
) -> Run:
    """Measure what a hospital can expect that the model has never seen: train without each source in turn, evaluate there.

    A source is a data set if several are given, and otherwise the hospital or scanner in the column source. Images of other
    sources that share a patient or a near duplicate with the source that is left out are not used.
    """
    from reslink.experiments.leave_one_source_out.leave_one_source_out import leave_one_source_out as run

    return lambda experiment: run(experiment, only or ())


def _training_command(name: str, function: Callable[..., Run]) -> Callable[..., None]:
    """Returns the command of an experiment that trains: the options of ``function``, and those of TrainingOptions."""
    own = inspect.signature(function, eval_str=True).parameters
    data, out, *shared = (
        parameter
        for parameter in inspect.signature(TrainingOptions, eval_str=True).parameters.values()
        if parameter.name not in own  # the experiment epochs has its own --epochs
    )

    @functools.wraps(function)
    def command(console: Console, **options: Any) -> None:
        values = {parameter: options.pop(parameter) for parameter in own}
        _run(console, name, TrainingOptions(**options), lambda experiment: function(**values)(experiment))

    console = inspect.Parameter("console", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    command.__signature__ = inspect.Signature([console, data, out, *own.values(), *shared])  # type: ignore[attr-defined]
    return command


def _run(console: Console, name: str, options: TrainingOptions, run: Run) -> None:
    """Runs an experiment that trains, and prints its result."""
    from reslink.datasets.joined_manifest import OpenOptions, open_data_sets
    from reslink.files import check_folder_path
    from reslink.training.recipe.recipe import load_recipe

    folder = options.out / name
    check_folder_path(folder)
    set_training_environment()
    changes: list[str | tuple[str, Any]] = [*(options.sets or [])]
    changes += [] if options.epochs is None else [("trainer.epochs", options.epochs)]
    changes += ["data.allow_conflicts=true"] if options.allow_conflicts else []
    changes += [("init.parent", options.init)] if options.init else []
    recipe = load_recipe(options.recipe, changes)
    recipe.require_one_class_per_slice(f"reslink experiment {name}")  # before the table is read
    opened = OpenOptions(
        columns=options.columns,
        root=options.root,
        unit=options.unit,
        class_order=recipe.data.class_order,
        label_map=parse_label_map(options.label_map or ()),
        corrections=options.corrections,
    )
    manifest = open_data_sets(options.data, opened)
    seeds = expand_seeds(options.seeds)
    from reslink.cluster.trials import trials_on
    from reslink.experiments.runner.experiment import Experiment

    jobs = options.jobs or _default_jobs(recipe.trainer.device)
    with locked(console, folder) as progress, trials_on(check_address(options.on), options.jobs) as cluster:
        result = run(Experiment(manifest, recipe, options.out, seeds, jobs, progress, cluster))
    print_experiment(console, result, {"report": folder / "report.html"}, options.json)


def expand_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    """Returns 0 to N − 1 for a single number N, otherwise the given seeds.

    Raises:
        UsageError: If the list is empty or the number is below 1.
    """
    if len(seeds) > 1:
        return tuple(seeds)
    if not seeds or seeds[0] < 1:
        raise UsageError("--seeds has no seed", "An experiment needs at least one run of each condition", "Use --seeds 3")
    return tuple(range(seeds[0]))


def _default_jobs(device: str) -> int:
    """Returns one run per core, or one run if runs would share a GPU."""
    import torch

    if device not in ("auto", "cpu") or (device == "auto" and (torch.cuda.is_available() or torch.backends.mps.is_available())):
        return 1
    return available_cores()


def robustness(
    console: Console,
    bundle: BundleFolder,
    data: Data,
    out: Out,
    columns: Columns = None,
    root: Root = None,
    unit: Unit = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only", metavar="NAME...", help="Corruptions to apply, such as noise jpeg; default: all.", show_default=False
        ),
    ] = None,
    images: Annotated[int, typer.Option("--images", min=0, help="Number of images, drawn at random; 0 for all.")] = 300,
    device: Device = "auto",
    seed: DrawSeed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Measure the metrics of a bundle under eleven corruptions (noise, motion, JPEG, window, ...) at five severities each.

    Each corruption is applied to the original image. Images from the training data of the bundle are skipped. Run the same
    command again to continue after an interruption.
    """
    from reslink.bundles.bundle import Bundle
    from reslink.datasets.corruptions import CORRUPTIONS
    from reslink.datasets.manifest import Manifest
    from reslink.files import check_folder_path

    folder = out / "robustness"
    check_folder_path(folder)
    for name in only or ():
        check_choice("corruption", name, CORRUPTIONS)
    loaded = Bundle.load(bundle)
    loaded.require_slices("reslink experiment robustness")
    loaded.labels.require_exclusive("reslink experiment robustness", "Evaluate the model with reslink evaluate")
    manifest = Manifest.open(data, labels=loaded.labels, columns=columns, root=root, unit=unit)
    from reslink.experiments.robustness.robustness import RobustnessOptions
    from reslink.experiments.robustness.robustness import robustness as run

    with locked(console, folder) as progress:
        options = RobustnessOptions(tuple(only or ()), images or None, device, seed, overwrite)
        result = run(loaded, manifest, out, options, progress)
    print_experiment(console, result, {"report": folder / "report.html"}, json)


class _Experiments(TyperGroup):
    """Names the command that an earlier experiment has become."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Returns the command of the first word."""
        if args[:1] == ["transfer"]:
            ctx.fail(
                "'reslink experiment transfer' has become 'reslink external'. Use: reslink external BUNDLE DATA... --out DIR"
            )
        return super().resolve_command(ctx, args)


_TRAINING: dict[str, Callable[..., Run]] = {
    "ablation": ablation,
    "epochs": epochs,
    "leakage": leakage,
    "shortcuts": shortcuts,
    "data-size": data_size,
    "leave-one-source-out": leave_one_source_out,
}
_COMMANDS = {name: _training_command(name, function) for name, function in _TRAINING.items()} | {
    "robustness": robustness,
}


def sub_app(examples: Callable[..., str], as_command: Callable[..., Callable[..., None]]) -> typer.Typer:
    """Returns ``reslink experiment`` with its commands.

    Args:
        examples: Formats commands as the end of a help text.
        as_command: Wraps a function as a command.
    """
    app = typer.Typer(cls=_Experiments, no_args_is_help=True, help="Experiments of many runs, one command each, with a report.")
    for name, function in _COMMANDS.items():
        app.command(name, cls=MultiValueCommand, epilog=examples(*EXAMPLES[name]))(as_command(function))
    return app
