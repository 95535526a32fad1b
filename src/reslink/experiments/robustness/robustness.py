"""The robustness experiment: metrics of a bundle under image corruptions at five severities, on the same cases."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reslink.bundles.bundle import Bundle
from reslink.datasets.corruptions import CORRUPTIONS, get_corruption
from reslink.datasets.manifest import Manifest
from reslink.errors import InputError
from reslink.experiments.robustness.metrics import RobustnessMetrics
from reslink.experiments.robustness.predict_corrupted import CorruptedPredictions, Corruptions, predict_corrupted
from reslink.experiments.robustness.prediction_store import PredictionStore
from reslink.experiments.robustness.tables import make_report
from reslink.experiments.sampling import exclude_near_duplicates, exclude_training_cases, open_cache, sample_cases
from reslink.inference.classifier import Classifier
from reslink.training.monitoring.progress import Progress, SilentProgress

_VERSION = 2
"""Stored predictions depend on it; increase it when the same corruption produces other pixels."""


@dataclass(frozen=True)
class RobustnessOptions:
    """Options of the robustness experiment.

    Attributes:
        corruptions: Names of :data:`reslink.datasets.corruptions.CORRUPTIONS`; empty for all.
        max_images: Maximum number of images, sampled at random and stratified by class; None takes all.
        device: See :func:`reslink.inference.devices.pick_device`.
        seed: Seed of the sample, the corruptions and the bootstrap.
        overwrite: Whether results with other settings in the output folder may be replaced.
    """

    corruptions: tuple[str, ...] = ()
    max_images: int | None = 300
    device: str = "auto"
    seed: int = 0
    overwrite: bool = False


def robustness(
    bundle: str | Path | Bundle,
    manifest: Manifest,
    out: Path,
    options: RobustnessOptions | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Evaluates a bundle on corrupted versions of the same images and writes ``out/robustness``.

    Each corruption changes the original image; head detection, window and resize follow as for any image. The random
    numbers of a case are the same at each severity. All metrics use the same cases, so drops are paired.

    Args:
        bundle: The folder of a bundle or of the run with it, the name of a shipped bundle, or a loaded bundle.
        manifest: The cases, with labels of the bundle. They should be new to the network.
        out: Folder of experiments; results are in ``robustness``, and an interrupted experiment resumes there.
        options: The options; None for the defaults.
        progress: Receives the progress.

    Returns:
        The contents of ``experiment.json``. Its table ``metrics`` has a row for each corruption and severity, with the
        metrics of the corrupted images and ``drop_accuracy`` and ``drop_auroc``: original minus corrupted.

    Raises:
        BundleError: If the bundle cannot be used.
        UsageError: If a corruption is unknown, ``out`` has results with other settings, or no case can be read.
        InputError: If no case can be evaluated.
        StorageError: If the results cannot be written.
    """
    options, progress = options or RobustnessOptions(), progress or SilentProgress()
    corruptions = Corruptions(tuple(dict.fromkeys(options.corruptions)) or tuple(CORRUPTIONS), options.seed)
    levels = {kind: get_corruption(kind).levels for kind in corruptions.kinds}
    classifier = Classifier.load(bundle, device=options.device)
    bundle_sha, preprocess = classifier.bundle.weights_sha256, classifier.bundle.preprocess
    settings = {
        "version": _VERSION,
        "bundle": bundle_sha,
        "preprocess": preprocess.digest(),
        "levels": levels,
        "seed": options.seed,
        "scope": classifier.bundle.scope.model_dump(mode="json"),
        "decision": classifier.bundle.decision.model_dump(mode="json"),
    }
    new_cases, training_cases = exclude_training_cases(manifest, classifier.bundle)
    with PredictionStore(out / "robustness", settings, overwrite=options.overwrite) as store:
        new_cases, duplicates = exclude_near_duplicates(new_cases, classifier.bundle, out / "cache", progress)
        selected = sample_cases(new_cases, options.max_images, options.seed)
        cache = open_cache(selected, preprocess, out / "cache", progress)
        predictions = predict_corrupted(classifier, cache, store, corruptions, progress)
    _check_not_empty(predictions)
    metrics = RobustnessMetrics.compute(predictions, cache, classifier.bundle.decision, corruptions)
    excluded = [*training_cases, *duplicates]
    report = make_report(metrics, manifest.root.name, classifier.bundle, predictions.failed, excluded)
    return report.write(out / "robustness")


def _check_not_empty(predictions: CorruptedPredictions) -> None:
    if not len(predictions.rows):
        first = next(iter(predictions.failed.values()))
        raise InputError(
            f"None of the {len(predictions.failed)} images can be evaluated; the first: {first}",
            "An experiment needs readable images",
            "Check one of the files",
        )
