"""How a classifier bears what goes wrong on the way to the file: corruptions at five severities, on the same cases."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reslink.datasets.corruptions import CORRUPTIONS, known
from reslink.datasets.manifest import Manifest
from reslink.errors import InputError
from reslink.experiments.robustness.metrics import Curves
from reslink.experiments.robustness.predict_corrupted import CorruptedAnswers, corrupted_answers
from reslink.experiments.robustness.prediction_store import KeptAnswers
from reslink.experiments.robustness.tables import report
from reslink.experiments.sampling import open_cache, sample, unlinked, unseen
from reslink.inference.classifier import Classifier
from reslink.training.monitoring.progress import Progress, Silent

_VERSION = 1
"""Part of what kept answers depend on: counts up when the same corruption begins to give other pixels."""


def robustness(
    bundle: str | Path,
    manifest: Manifest,
    out: Path,
    *,
    kinds: Sequence[str] = (),
    images: int | None = 300,
    device: str = "auto",
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Judges a bundle on corrupted copies of the same images; writes ``out/robustness``.

    Each corruption acts on the original image; head search, window and resize follow as for any other image. The random
    numbers of a case are the same at each severity. All figures are over the same cases, so that a drop is paired.

    Args:
        bundle: The folder of a bundle, or of the run that holds it, or the name of a shipped bundle.
        manifest: The cases, with labels of the bundle. They should be new to the network.
        out: Folder of studies; this one stands in ``robustness`` inside and goes on there after an interruption.
        kinds: Names of :data:`reslink.datasets.corruptions.CORRUPTIONS`; none means all.
        images: Cases to judge at most, drawn at random with the classes in their shares; None takes all.
        device: See :func:`reslink.inference.devices.pick_device`.
        seed: Seed of the drawing, the corruptions and the bootstrap.
        overwrite: Whether a study with other settings in ``out`` may be replaced.
        progress: Hears how far it is.

    Returns:
        What ``study.json`` holds: its table ``figures`` has a row for each corruption and severity with the figures of
        the corrupted images and ``drop_accuracy`` and ``drop_auroc``, those of the images as they are less these.

    Raises:
        BundleError: If the bundle cannot be used.
        UsageError: If a corruption is unknown, ``out`` holds a study with other settings, or not one case can be read.
        InputError: If not one case can be judged.
        StorageError: If the results cannot be written.
    """
    chosen = tuple(dict.fromkeys(kinds)) or tuple(CORRUPTIONS)
    levels = {kind: known(kind).levels for kind in chosen}
    classifier, listener = Classifier.load(bundle, device=device), progress or Silent()
    sha, preprocess = classifier.bundle.weights_sha256, classifier.bundle.preprocess
    decision = classifier.bundle.decision.model_dump(mode="json")
    depends_on = {"version": _VERSION, "bundle": sha, "preprocess": preprocess.digest(), "levels": levels, "seed": seed}
    depends_on["decision"] = decision
    new, left_out = unseen(manifest, classifier.bundle)
    with KeptAnswers(out / "robustness", depends_on, overwrite=overwrite) as kept:
        chosen_cases, linked = unlinked(new, classifier.bundle, out / "cache", listener)
        cache = open_cache(sample(chosen_cases, images, seed), preprocess, out / "cache", listener)
        found = corrupted_answers(classifier, cache, range(len(cache)), kept, chosen, seed, listener)
    _check_some(found)
    curves = Curves.of(found, cache, classifier.bundle.decision, chosen, seed)
    known_images = classifier.bundle.training_images is not None
    return report(curves, manifest.root.name, sha, found.failed, [*left_out, *linked], known_images).write(out / "robustness")


def _check_some(found: CorruptedAnswers) -> None:
    if not len(found.rows):
        raise InputError(
            f"Not one of {len(found.failed)} images could be judged; the first: {next(iter(found.failed.values()))}",
            "A study needs images that can be read and judged",
            "Look at one of the files",
        )
