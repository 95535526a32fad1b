"""``reslink.train``: training, evaluation on the test split, attention gallery and report in one run folder."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reslink.api.audit_memory import failed_checks
from reslink.api.data_argument import (
    Columns,
    DataSets,
    Map,
    check_outside,
    label_names,
    open_manifest_of_recipe,
)
from reslink.api.onnx_model import add_onnx_model
from reslink.api.progress import ShowProgress, resolve_progress
from reslink.errors import InputError, UsageError
from reslink.files import lock_folder, write_json
from reslink.labels import CaseKind
from reslink.networks.entry_points import Builder, as_builder
from reslink.training.monitoring.progress import phase

if TYPE_CHECKING:
    from torch import nn

    from reslink.bundles.bundle import Bundle
    from reslink.datasets.manifest import Manifest
    from reslink.training.data import TrainingData
    from reslink.training.monitoring.progress import Progress
    from reslink.training.recipe.recipe import Recipe
    from reslink.training.tracking.tracking import Tracking

GALLERY_METHODS = ("final_attention", "grad_cam")
GALLERY_CHECKED_IMAGES = 16
"""Number of test images for the model-randomization check."""

_log = logging.getLogger(__name__)


def train(
    data: DataSets,
    out: str | Path,
    *,
    map: Map = None,
    corrections: str | Path | None = None,
    columns: Columns = None,
    root: str | Path | None = None,
    unit: str | None = None,
    recipe: str | Path | None = None,
    settings: Mapping[str, Any] | Sequence[str] = (),
    labels: str | Sequence[str] | None = None,
    network: str | Builder | nn.Module | None = None,
    init: str | Path | None = None,
    freeze: Sequence[str] = (),
    epochs: int | None = None,
    seed: int | None = None,
    batch_size: int | None = None,
    case: CaseKind | None = None,
    device: str | None = None,
    allow_leakage: bool = False,
    allow_conflicts: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    cache: str | Path | None = None,
    on: str | None = None,
    processes: int | None = None,
    track: str | Sequence[str] = (),
    progress: ShowProgress = False,
) -> dict[str, Any]:
    """Trains a classifier, evaluates it on held-out cases, and writes the bundle and ``report.html`` to a run folder.

    Cases are split by patient; near duplicates stay in one split. Imports torch. Sets the environment variable
    ``CUBLAS_WORKSPACE_CONFIG`` if it is unset, which makes CUDA deterministic; this has no effect if CUDA is already in use.

    Args:
        data: A folder with one folder per class, a folder with a ``manifest.csv``, a CSV or Parquet table, or an opened
            ``Manifest``; or a list of them, which are joined. The name of each becomes the ``source`` of its cases.
        out: The run folder.
        map: Label to class, such as ``{"bleed": "Tumor", "clinic:other": None}`` or ``["bleed=Tumor"]``; ``SET:LABEL`` is the
            label of one data set, and None leaves its cases out.
        corrections: A CSV of corrected labels, such as ``label_corrections.csv`` of ``reslink.audit(…, labels_from=…)``.
        columns: Role to column of a table, such as ``{"patient": "MRN"}``; None infers the columns from their names.
        root: Folder that the paths in a table start from; None for the folder of the table.
        unit: ``hu``, ``mr`` or ``gray`` for images for which neither file nor table states a unit; None decides by the values.
        recipe: A recipe in YAML, or the name of a published recipe; None for the default recipe.
        settings: Recipe keys and values, such as ``{"model.variant": "reslink_paper"}``, or texts such as ``"seed=3"``.
            A text value of a mapping stays a text; only texts with ``=`` are read as YAML.
        labels: Columns of a table with several labels at once (1, 0 or empty), such as ``["epidural", "subdural"]``; None for
            the value of the recipe (one class per image).
        network: The network; None for that of the recipe. The name of a variant, such as ``"densenet121"``; an entry point,
            ``"package.module:callable"`` or ``"file.py:callable"``; a callable ``(in_channels, num_classes, **options)``; or a
            torch module, which is copied.
        init: Start from the weights of this shipped model, bundle or run; None for the value of the recipe (from scratch).
        freeze: Modules of the parent that are not trained, such as ``["stem"]``.
        epochs: Number of epochs; None for the value of the recipe.
        seed: Seed of weights, split, batches and augmentation; None for the value of the recipe.
        batch_size: Number of images or series per training step; None for the value of the recipe.
        case: ``slice``, or ``series`` if each row of a table is a volume or a folder with a DICOM series, with one label; None
            for the value of the recipe (``slice``).
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``; None for the value of the recipe.
        allow_leakage: Accept a given split in which a patient or near duplicate appears twice.
        allow_conflicts: Accept identical images and near duplicates with different labels.
        resume: Resume the run in ``out``, or start a new one. More ``epochs`` extend a finished run.
        overwrite: Replace the run in ``out``.
        cache: Folder for the decoded images, which several calls can share, also at the same time and from several machines;
            None for ``cache`` in the run folder.
        on: A Ray cluster that trains: ``ray`` (this machine), ``HOST:PORT`` or ``ray://HOST:PORT``; None for this process.
        processes: Number of processes on the cluster, each with one core, or one GPU with ``device="cuda"``. Each has a share
            of every batch. Only with ``on``, and then required.
        track: Trackers that record the run in its folder: ``tensorboard``, ``mlflow``, ``wandb``. They change neither weights
            nor recipe, and open no network connection.
        progress: Whether to show a progress bar, or an object with the methods of ``Progress``.

    Returns:
        The paths of the run, bundle and report, the metrics of the test split (of several labels at once their means, and under
        ``by_label`` counts and metrics of each), its refused images (``n_refused``, and under
        ``refused`` why, by case name), the findings during training, under ``left_out`` the error of each file
        that could not be read, and under ``tracking`` the number of records that each tracker lost. Empty in all but the first
        process of a distributed training.

    Raises:
        UsageError: If a setting or tracker is invalid, the package of a tracker is missing, the data set does not match the
            recipe, or ``out`` holds a run.
        CheckFailedError: If a split leaks, or an image has several labels.
        InputError: If every test image is refused; the run is kept.
        TrainingError: If the training fails.

    Example:
        >>> import reslink
        >>> run = reslink.train("images/", "runs/first", epochs=5, progress=True)  # doctest: +SKIP
        >>> reslink.predict(run["bundle"], "scan.png")  # doctest: +SKIP
        [Prediction(scan.png: Tumor, probability 0.974)]
    """
    from reslink.training.recipe.inheritance import parent_setting
    from reslink.training.recipe.recipe import changes_of, load_recipe
    from reslink.training.tracking.tracking import Tracking

    options = {
        "data.labels": None if labels is None else list(label_names(labels)),
        "init.parent": None if init is None else parent_setting(init),
        "init.freeze": list(freeze) or None,
        "trainer.epochs": epochs,
        "seed": seed,
        "trainer.batch_size": batch_size,
        "trainer.case": case,
        "trainer.device": device,
        "data.allow_leakage": allow_leakage or None,
        "data.allow_conflicts": allow_conflicts or None,
    }
    loaded = load_recipe(recipe, changes_of(settings, options, network))
    if network is not None and not isinstance(network, str):
        loaded = loaded.with_builder(as_builder(network))
    if (on is None) != (processes is None):
        raise UsageError(
            f"--processes was not given with --on {on}" if on else f"--processes {processes} was given without --on",
            "A training on a cluster needs its number of processes, because another number gives other weights",
            "Give both options, such as --on ray and --processes 2, or neither",
        )
    tracking = Tracking([track] if isinstance(track, str) else track, Path(out))
    manifest = open_manifest_of_recipe(data, loaded, map=map, corrections=corrections, columns=columns, root=root, unit=unit)
    folders = Path(out), Path(out) / "cache" if cache is None else Path(cache)
    if cache is not None:
        check_outside(Path(cache), manifest, "--cache")
    if on is not None and processes is not None:
        _train_on_cluster(
            manifest, loaded.with_code(), *folders, on, processes, resume=resume, overwrite=overwrite, progress=progress
        )
        resume, overwrite = True, False  # the finished run is evaluated here
    with tracking:
        summary = run_training(
            manifest, loaded, *folders, resume=resume, overwrite=overwrite, progress=progress, tracking=tracking
        )
    return summary | ({"tracking": {name: tracking.failed[name] for name in tracking.names}} if summary and track else {})


def _train_on_cluster(
    manifest: Manifest,
    recipe: Recipe,
    out: Path,
    cache: Path,
    cluster: str,
    processes: int,
    *,
    progress: ShowProgress,
    **folder: bool,
) -> None:
    """Trains on a cluster and leaves a finished run; see :func:`reslink.cluster.training.train_on_cluster`."""
    from reslink.cluster.training import train_on_cluster

    listener = resolve_progress(progress)
    try:
        train_on_cluster(manifest, recipe, out, cache, cluster, processes, progress=listener, **folder)
    finally:
        listener.end()


def run_training(
    manifest: Manifest,
    recipe: Recipe,
    out: Path,
    cache: Path,
    *,
    resume: bool,
    overwrite: bool,
    progress: ShowProgress,
    tracking: Tracking | None = None,
) -> dict[str, Any]:
    """Trains, evaluates on the test split, draws the attention gallery and writes the report.

    Args:
        manifest: The data set.
        recipe: The recipe.
        out: The run folder.
        cache: Folder for the decoded images.
        resume: Resume the run in ``out``, or start a new one.
        overwrite: Replace the run in ``out``.
        progress: As for :func:`train`.
        tracking: Records the run; None to record nothing.

    Returns:
        As for :func:`train`.
    """
    # cuBLAS reads it when CUDA starts; without it, it is not deterministic.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    from reslink.bundles.bundle import Bundle
    from reslink.reports.run.page import run_report
    from reslink.training.monitoring.diagnostics import FINDINGS_AFTER_TRAINING
    from reslink.training.trainer import train as train_network

    listener, recipe = resolve_progress(progress), recipe.with_code()
    try:
        result = train_network(
            manifest,
            recipe,
            out,
            resume=resume,
            overwrite=overwrite,
            progress=listener,
            cache=cache,
            on_data=_warn_of_failed_audit,
            tracking=tracking,
        )
    finally:
        listener.end()
    if os.environ.get("RANK", "0") != "0":  # one of several processes of torchrun; the first process does the rest
        return {}
    for finding in result.findings:
        if finding.code in FINDINGS_AFTER_TRAINING:
            listener.message(finding.as_text())
    try:
        with lock_folder(out):
            bundle = add_onnx_model(Bundle.load(result.bundle, recipe.builder()))
            evaluation = _evaluate_test_split(manifest, recipe, out, cache, bundle, listener)
            report = run_report(out)
        if tracking is not None:
            tracking.evaluation(evaluation, result.best_epoch)
            tracking.gallery(out / "figures")
    except InputError as error:  # every test image is outside the scope of the bundle, for example
        run_report(out)
        raise _not_evaluated(error, out, result.bundle) from error
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            "Stopped during the evaluation; the model is saved.\n"
            f"  Run the same command with --resume to evaluate it (run folder {out})."
        ) from None
    return {
        "run": str(out),
        "bundle": str(result.bundle),
        "report": str(report),
        "epochs": result.epochs,
        "best_epoch": result.best_epoch,
        "n_test": evaluation.get("n", 0),
        "n_refused": evaluation.get("n_refused", 0),
        "refused": evaluation.get("refused", {}),
        "left_out": _unreadable_cases(manifest, out),
        "data_notes": list(manifest.notes),
        "metrics": evaluation.get("metrics", {}),
        "leakage": evaluation.get("leakage"),
        "localization": evaluation.get("localization", {}),
        "findings": [asdict(finding) for finding in result.findings],
        **_label_metrics(evaluation),
    }


def _label_metrics(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Returns ``by_label``: counts and metrics of each of several labels at once; empty with one class per image."""
    entries = evaluation.get("by_label")
    if not entries:
        return {}
    counts = ("n", "n_present", "n_unknown")
    metrics = evaluation["per_class"]
    return {"by_label": {name: {key: entry[key] for key in counts} | metrics[name] for name, entry in entries.items()}}


def _not_evaluated(error: InputError, out: Path, bundle: Path) -> InputError:
    return InputError(
        f"The model is trained, but its test split cannot be evaluated. {error.given}",
        error.allowed,
        f"The run is kept in {out}. Evaluate {bundle} on other images with reslink evaluate, or train again on corrected data",
    )


def _warn_of_failed_audit(data: TrainingData) -> None:
    """Repeats the failed checks of an earlier audit of the same images and labels."""
    from reslink.datasets.manifest import images_digest

    hashes = data.cache.file_hashes
    failed = failed_checks(images_digest((hashes[case.name], case.label) for case in data.manifest.cases))
    if failed:
        _log.warning(
            "The last audit of these images and labels failed (%s). Metrics may describe the data set rather than the model. "
            "Run reslink audit for the details.",
            ", ".join(failed),
        )


def _evaluate_test_split(
    manifest: Manifest, recipe: Recipe, out: Path, cache: Path, bundle: Bundle, progress: Progress
) -> dict[str, Any]:
    """Evaluates the bundle of a run on its test split, stores the metrics in the bundle, and draws the gallery.

    Returns:
        The content of ``evaluation.json``; empty if the run has no test split.
    """
    from reslink.datasets.patient_ids import add_header_patients
    from reslink.evaluation.evaluate import EvaluationOptions, evaluate_bundle

    # Patients are read for the whole data set, as they were for the split.
    cases = _test_cases(add_header_patients(manifest)[0], out / "splits.csv")
    if not len(cases):
        _log.warning("The run has no test split; the model is not evaluated.")
        return {}
    progress.message(f"Evaluating {len(cases)} test images")
    options = EvaluationOptions(
        device=recipe.trainer.device,
        split="test",
        cache_folder=cache,
        batch_size=recipe.trainer.batch_size,
        seed=recipe.seed,
        allow_leakage=recipe.data.allow_leakage,
        leaked_cases=read_leaked_cases(out),
    )
    evaluation = evaluate_bundle(bundle, cases, out, options)
    evaluated = bundle.with_metrics(evaluation)
    write_gallery(out, cache, evaluated, cases, recipe.trainer.device, progress)
    return evaluation


def read_splits(table: Path) -> dict[str, str]:
    """Returns the split of each readable case by name, from the ``splits.csv`` of a run."""
    with table.open(newline="", encoding="utf-8") as stream:
        return {row["sample_id"]: row["split"] for row in csv.DictReader(stream)}


def read_leaked_cases(run: Path) -> dict[str, str] | None:
    """Returns why a case of a run overlaps with the training split, by case name; None if the run did not check it."""
    from reslink.training.run_folder import RunFolder

    return (RunFolder(run).finished() or {}).get("leaked")


def _test_cases(manifest: Manifest, splits: Path) -> Manifest:
    split_of = read_splits(splits)
    cases = tuple(replace(case, split="test") for case in manifest.cases if split_of.get(case.name) == "test")
    return replace(manifest, cases=cases)


def _unreadable_cases(manifest: Manifest, run: Path) -> dict[str, str]:
    """Returns why a case has no row in the ``splits.csv`` of a run, by case name: it could not be read."""
    from reslink.training.run_folder import RunFolder

    readable = read_splits(run / "splits.csv")
    reasons = (RunFolder(run).finished() or {}).get("left_out", {})
    names = [case.name for case in manifest.cases if case.name not in readable]
    return {name: reasons.get(name, "It could not be read") for name in names}


def write_gallery(run: Path, cache: Path, bundle: Bundle, cases: Manifest, device: str, progress: Progress) -> None:
    """Writes ``figures/gallery_*.png``, ``figures/gallery.json`` and ``figures/sanity.json`` for the report of a run.

    Args:
        run: The run folder, with ``predictions.csv``.
        cache: Folder with the decoded images.
        bundle: The bundle of the run.
        cases: The evaluated cases.
        device: Device of the network.
        progress: Receives the progress.
    """
    from reslink.datasets.cache.pixel_cache import PixelCache
    from reslink.explain.explain_files import randomization_checks
    from reslink.inference.classifier import Classifier
    from reslink.reports.run.attention_gallery import attention_gallery

    with phase(progress, 2, "Drawing attention maps"):
        classifier = Classifier.load(bundle, device=device)
        attention_gallery(classifier, cases, run / "predictions.csv", run / "figures")
        progress.step()
        opened = PixelCache.open(cases, classifier.bundle.preprocess, cache, case=bundle.case)
        rows = opened.middle_rows(range(0, len(opened), max(1, len(opened) // GALLERY_CHECKED_IMAGES)))
        pixels = [opened.pixels[row] for row in rows][:GALLERY_CHECKED_IMAGES]
        checks = randomization_checks(classifier, pixels, GALLERY_METHODS)
        write_json(run / "figures" / "sanity.json", [check.as_dict() for check in checks])
        progress.step()
