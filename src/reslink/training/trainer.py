"""Training from a manifest and a recipe to a run folder with a bundle."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reslink.datasets.manifest import Manifest
from reslink.errors import UsageError
from reslink.training import run_folder
from reslink.training.data import Materials, open_materials
from reslink.training.distributed import deterministic, make_accelerator
from reslink.training.loop import Run, changes
from reslink.training.monitoring.diagnostics import Finding
from reslink.training.monitoring.progress import Progress, Silent
from reslink.training.recipe.recipe import Recipe
from reslink.training.run_folder import Row, RunFolder
from reslink.training.seeding import forked
from reslink.training.signals import Interrupted, stop_on_signals

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class RunResult:
    """What came of a run.

    Attributes:
        folder: The run folder.
        bundle: Folder of the bundle.
        epochs: Epochs trained.
        best_epoch: The epoch whose weights are in the bundle.
        validation: Loss, accuracy and AUROC of that epoch on the validation part.
        findings: What the watch saw.
        already_finished: Whether the run had ended before this call, which then did nothing.
    """

    folder: Path
    bundle: Path
    epochs: int
    best_epoch: int
    validation: dict[str, float | None]
    findings: tuple[Finding, ...] = ()
    already_finished: bool = False


def train(
    manifest: Manifest,
    recipe: Recipe,
    out: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    cache: str | Path | None = None,
    materials: Materials | None = None,
) -> RunResult:
    """Trains a network and writes the run folder.

    Writes ``config.yaml, environment.json, splits.csv, metrics.jsonl, results.csv, checkpoints/`` and ``bundle/``. Two
    runs with the same data, recipe and number of threads write the same weights to the byte, whether or not one was
    interrupted.

    Args:
        manifest: The data set.
        recipe: The settings.
        out: The run folder.
        resume: Go on from the last checkpoint in ``out``, from the start if there is none; a finished run stays as is.
        overwrite: Replace the run that stands in ``out``.
        progress: Hears how the run goes.
        cache: Folder of decoded images, which runs may share; ``out/cache`` where None.
        materials: The data as it was opened and divided already; opened and divided by the recipe where None.

    Returns:
        What came of it.

    Raises:
        UsageError: If ``out`` is in use or holds a run, settings and data do not fit, or data or recipe are not those
            of the run that shall go on.
        DivergedError: If the loss or a gradient is not finite; the state before that step is saved.
        StorageError: If something cannot be written; the last checkpoint is intact.
        Interrupted: On Ctrl-C or SIGTERM, once the state is saved.
    """
    accelerator = make_accelerator(recipe.trainer)
    folder = RunFolder(Path(out))
    main = accelerator.is_main_process
    listener = (progress or Silent()) if main else Silent()
    try:
        with folder.claimed(resume=resume, overwrite=overwrite) if main else contextlib.nullcontext():
            accelerator.wait_for_everyone()
            opened = materials or (manifest, Path(cache) if cache else folder.path / "cache")
            return _run(opened, recipe, folder, accelerator, listener)
    except KeyboardInterrupt:  # while images are read, or the second Ctrl-C
        raise Interrupted(
            "Training was stopped at once",
            "What was decoded and the last checkpoint are kept",
            f"Run the same command with --resume to go on (run folder {folder.path})",
        ) from None
    finally:
        if accelerator.num_processes > 1:
            accelerator.end_training()


def _run(
    data: Materials | tuple[Manifest, Path], recipe: Recipe, folder: RunFolder, accelerator: Accelerator, progress: Progress
) -> RunResult:
    summary = folder.finished()
    if summary is not None:
        _check_recipe(summary["recipe"], recipe, folder)
        progress.message(f"The run in {folder.path} is finished; nothing is left to do.")
        return _result(folder, summary, already_finished=True)
    with accelerator.main_process_first():
        materials = data if isinstance(data, Materials) else open_materials(data[0], recipe, data[1], progress)
    with forked(accelerator.device), deterministic(recipe.trainer.deterministic), stop_on_signals() as stop:
        run = Run(recipe, materials, folder, accelerator, progress, stop)
        run.begin()
        run.all_epochs()
        summary = run.export()
    return _result(folder, summary)


def _check_recipe(before: Row, recipe: Recipe, folder: RunFolder) -> None:
    found = list(changes(before, recipe.published()))
    if found:
        raise UsageError(
            f"The finished run in {folder.path} had another recipe: {'; '.join(found[:5])}",
            "--resume goes on with the same recipe",
            "Choose another --out, or start anew with --overwrite",
        )


def _result(folder: RunFolder, summary: Row, *, already_finished: bool = False) -> RunResult:
    return RunResult(
        folder=folder.path,
        bundle=folder.path / run_folder.BUNDLE,
        epochs=summary["epochs"],
        best_epoch=summary["best_epoch"],
        validation=summary["validation"],
        findings=tuple(Finding(**finding) for finding in summary["findings"]),
        already_finished=already_finished,
    )
