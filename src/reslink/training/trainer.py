"""Training from a manifest and a recipe to a run folder with a bundle."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reslink.datasets.manifest import Manifest
from reslink.errors import UsageError
from reslink.networks.adapter import check_training
from reslink.networks.build import build_network
from reslink.training import run_folder
from reslink.training.data import TrainingData, open_training_data
from reslink.training.distributed import deterministic, make_accelerator
from reslink.training.initialization import Initialization
from reslink.training.loop import Run, is_extension
from reslink.training.monitoring.diagnostics import Finding
from reslink.training.monitoring.progress import Progress, SilentProgress
from reslink.training.recipe.differences import differences
from reslink.training.recipe.recipe import Recipe
from reslink.training.run_folder import Row, RunFolder
from reslink.training.seeding import fork_random_state
from reslink.training.signals import Interrupted, stop_on_signals
from reslink.training.tracking.tracking import Tracking

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class RunResult:
    """The result of a run.

    Attributes:
        folder: The run folder.
        bundle: Folder of the bundle.
        epochs: Epochs trained.
        best_epoch: The epoch whose weights are in the bundle.
        validation: Loss, accuracy and AUROC of that epoch on the validation split.
        findings: The findings of the diagnostics.
    """

    folder: Path
    bundle: Path
    epochs: int
    best_epoch: int
    validation: dict[str, float | None]
    findings: tuple[Finding, ...] = ()


def train(
    manifest: Manifest,
    recipe: Recipe,
    out: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    cache: str | Path | None = None,
    training_data: TrainingData | None = None,
    on_data: Callable[[TrainingData], None] | None = None,
    tracking: Tracking | None = None,
) -> RunResult:
    """Trains a network and writes the run folder.

    Writes ``config.yaml, environment.json, splits.csv, metrics.jsonl, results.csv, checkpoints/`` and ``bundle/``. Two
    runs with the same data, recipe and number of threads write the same weights to the byte, whether or not one was
    interrupted.

    Args:
        manifest: The data set.
        recipe: The settings.
        out: The run folder.
        resume: Continue from the last checkpoint in ``out``, or from the start without one. A finished run is not changed,
            unless the recipe has more epochs: then it is trained for the missing epochs.
        overwrite: Replace the run in ``out``.
        progress: Receives the progress.
        cache: Folder of decoded images, which runs can share; ``out/cache`` if None.
        training_data: The opened data with its splits; opened by the recipe if None.
        on_data: Called with the opened data before training, in the first process.
        tracking: Records the run, in the first process.

    Returns:
        Folders, epochs, validation metrics and findings.

    Raises:
        UsageError: If ``out`` is in use or holds a run, settings and data do not fit, or data or recipe differ from those of
            the resumed run.
        DivergedError: If the loss or a gradient is not finite; the state before that step is saved.
        StorageError: If a file cannot be written; the last checkpoint is intact.
        Interrupted: On Ctrl-C or SIGTERM, after the state is saved.
    """
    accelerator = make_accelerator(recipe.trainer)
    recipe, folder = recipe.with_code(), RunFolder(Path(out))
    is_main = accelerator.is_main_process
    recipe.decision.check_labels(manifest.labels)
    _check_network(recipe, len(manifest.labels))
    initialization = Initialization.from_recipe(recipe, manifest.labels)  # before the folder is cleared and images are read
    if initialization is not None:
        _check_parent_is_kept(initialization, folder.path)
    own_progress = (progress or SilentProgress()) if is_main else SilentProgress()
    try:
        with folder.locked(resume=resume, overwrite=overwrite) if is_main else contextlib.nullcontext():
            accelerator.wait_for_everyone()
            data = training_data or (manifest, Path(cache) if cache else folder.path / "cache")
            own_tracking = (tracking or Tracking()) if is_main else Tracking()
            on_data = on_data if is_main else None
            return _run(data, recipe, folder, accelerator, own_progress, on_data, initialization, own_tracking)
    except KeyboardInterrupt:  # while images are read, or a second Ctrl-C
        raise Interrupted(
            "Training was stopped immediately",
            "Decoded images and the last checkpoint are kept",
            f"Run the same command with --resume to continue (run folder {folder.path})",
        ) from None
    finally:
        if accelerator.num_processes > 1:
            accelerator.end_training()


def _run(
    data: TrainingData | tuple[Manifest, Path],
    recipe: Recipe,
    folder: RunFolder,
    accelerator: Accelerator,
    progress: Progress,
    on_data: Callable[[TrainingData], None] | None,
    initialization: Initialization | None,
    tracking: Tracking,
) -> RunResult:
    summary = folder.finished()
    if summary is not None and not is_extension(summary["recipe"], recipe.published()):
        _check_recipe(summary["recipe"], recipe, folder)
        progress.message(f"The run in {folder.path} is finished; there is nothing left to do.")
        if accelerator.is_main_process:
            tracking.start(summary["recipe"], folder.read_results(), epoch=None)
        return _result(folder, summary)
    with accelerator.main_process_first():
        seen = () if initialization is None else initialization.parent.seen_images
        training_data = data if isinstance(data, TrainingData) else open_training_data(data[0], recipe, data[1], progress, seen)
    if on_data is not None:
        on_data(training_data)
    with fork_random_state(accelerator.device), deterministic(recipe.trainer.deterministic), stop_on_signals() as stop:
        run = Run(recipe, training_data, folder, accelerator, progress, stop, initialization, tracking)
        run.begin()
        run.train_epochs()
        summary = run.export()
    return _result(folder, summary)


def _check_network(recipe: Recipe, num_classes: int) -> None:
    """Builds a network that is not a ResLink once, so that its faults are found before the images are read."""
    if recipe.model.is_external:
        check_training(build_network(recipe.network(num_classes), 0, recipe.builder()))


def _check_parent_is_kept(initialization: Initialization, out: Path) -> None:
    parent = initialization.parent.folder
    if parent is not None and parent.resolve().is_relative_to(out.resolve()):
        raise UsageError(
            f"The parent {parent} lies in the run folder {out}",
            "A fine-tuned network is written to another run folder than its parent",
            "Choose another --out, or omit --init and add --resume to train the same run for more epochs",
        )


def _check_recipe(before: Row, recipe: Recipe, folder: RunFolder) -> None:
    now = recipe.published()
    if now["trainer"]["epochs"] > before["trainer"]["epochs"]:  # allowed, if it were the only difference
        before = before | {"trainer": before["trainer"] | {"epochs": now["trainer"]["epochs"]}}
    changes = list(differences(before, now))
    if changes:
        raise UsageError(
            f"The finished run in {folder.path} had another recipe: {'; '.join(changes[:5])}",
            "--resume continues with the same recipe, or with more epochs",
            "Give these settings as before, choose another --out, or start again with --overwrite",
        )


def _result(folder: RunFolder, summary: Row) -> RunResult:
    return RunResult(
        folder=folder.path,
        bundle=folder.path / run_folder.BUNDLE,
        epochs=summary["epochs"],
        best_epoch=summary["best_epoch"],
        validation=summary["validation"],
        findings=tuple(Finding(**finding) for finding in summary["findings"]),
    )
