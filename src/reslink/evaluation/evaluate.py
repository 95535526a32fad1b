"""Judges a classifier: figures with intervals over patients, a prediction for each case, and what could not be read."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from reslink.bundles.decision import Decision
from reslink.datasets import twins
from reslink.datasets.loading import PixelCache
from reslink.datasets.manifest import Manifest
from reslink.errors import InputError, StorageError, UsageError, nearest
from reslink.evaluation.tables import JudgedCases, write_predictions
from reslink.files import write_json
from reslink.inference.classifier import Classifier
from reslink.labels import Labels
from reslink.metrics.classification import confusion, estimates


def evaluate_cases(
    y_true: ArrayLike,
    probabilities: ArrayLike,
    groups: Sequence[str],
    labels: Labels,
    decision: Decision,
    localization: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Returns the JSON form of an evaluation.

    Args:
        y_true: (n,) class indices.
        probabilities: (n, K), as ``decision.probabilities`` gives them.
        groups: (n,) the patient or twin group of each case, the unit of the intervals.
        labels: The K classes; with two, figures refer to the last one.
        decision: How a class is chosen.
        localization: What was measured of the heat maps, taken over as it is.
        seed: Seed of the bootstrap.

    Returns:
        ``n``, ``n_groups``, ``labels``, ``positive``, ``decision``, ``metrics`` (each ``estimate, ci_low, ci_high,
        method, n``; null where undefined, with the reason in ``method``), ``per_class``, ``confusion_matrix``
        (``labels``, ``counts`` of true by predicted class), ``localization``, ``research_use_only``.

    Raises:
        InputError: If there is no case, or the arrays do not fit each other.
    """
    scores = np.asarray(probabilities, dtype=np.float64)
    y_pred = decision.predict(scores)
    metrics, per_class = estimates(y_true, scores, y_pred, groups, labels.names, seed)
    return {
        "n": len(y_pred),
        "n_groups": len(set(groups)),
        "labels": list(labels.names),
        "positive": labels.positive,
        "decision": decision.model_dump(mode="json"),
        "metrics": {name: estimate.as_dict() for name, estimate in metrics.items()},
        "per_class": {
            label: {name: estimate.as_dict() for name, estimate in figures.items()} for label, figures in per_class.items()
        },
        "confusion_matrix": {"labels": list(labels.names), "counts": confusion(y_true, y_pred, len(labels))},
        "localization": dict(localization or {}),
        "research_use_only": True,
    }


def evaluate_bundle(
    bundle: str | Path,
    manifest: Manifest,
    out: Path,
    *,
    device: str = "auto",
    split: str | None = None,
    explain_masks: bool = True,
    cache_folder: Path | None = None,
    batch_size: int = 32,
    seed: int = 0,
) -> dict[str, Any]:
    """Judges a bundle on the cases of a data set and writes ``evaluation.json`` and ``predictions.csv``.

    Cases are read through the same cache and preprocessing as in training. A case that cannot be read is counted and
    listed under ``failed``, the others go on.

    Args:
        bundle: The folder of a bundle, or of the run that holds it.
        manifest: The cases; their labels are among those of the bundle.
        out: The folder to write to.
        device: See :func:`reslink.inference.devices.pick_device`.
        split: ``train``, ``validation`` or ``test``: only the cases that the manifest puts there. None takes all.
        explain_masks: Whether to measure where the network looks, on the cases whose lesion mask is known.
        cache_folder: Where decoded images are kept; if not given they are gone afterwards.
        batch_size: Images that the network sees at a time.
        seed: Seed of the bootstrap.

    Returns:
        What ``evaluation.json`` holds: that of :func:`evaluate_cases`, and ``failed`` (a message by case name),
        ``n_failed``, ``split`` and ``bundle_sha256`` (of the weights).

    Raises:
        BundleError: If the bundle cannot be used.
        UsageError: If a label is unknown to the bundle, no case is in the split, or not one case can be read.
        InputError: If the network gives no finite value for any case.
        StorageError: If the results cannot be written.
    """
    classifier = Classifier.load(bundle, device)
    part = _chosen(manifest, classifier.labels, split)
    with _cache_folder(out, cache_folder) as folder:
        cache = PixelCache.open(part, classifier.bundle.preprocess, folder)
        cases = _judged(classifier, cache, batch_size)
        found = _localization(classifier, cache, cases, batch_size, seed) if explain_masks else {}
    decision = classifier.bundle.decision
    truth = [classifier.labels.index(case.label) for case in cases.manifest.cases]
    result = evaluate_cases(truth, cases.probabilities, cases.groups, classifier.labels, decision, found, seed)
    result |= {"split": split, "n_failed": len(cases.failed), "failed": cases.failed}
    result["bundle_sha256"] = classifier.bundle.weights_sha256
    write_predictions(out / "predictions.csv", cases, classifier.labels, decision)
    write_json(out / "evaluation.json", result)
    return result


def _chosen(manifest: Manifest, labels: Labels, split: str | None) -> Manifest:
    """Returns the cases of a split, after a look at their labels."""
    for name in dict.fromkeys(case.label for case in manifest.cases):
        labels.index(name)  # raises with the nearest name
    if split is None:
        return manifest
    sides = [case.split for case in manifest.cases]
    if split not in sides:
        known = sorted({side for side in sides if side})
        raise UsageError(
            f"No case is in the split {split!r}",
            f"The data set states the splits {', '.join(known)}" if known else "The data set states no split",
            nearest(split, known) if known else "Leave --split out, or add a column 'split' to the manifest",
        )
    return manifest.subset(i for i, side in enumerate(sides) if side == split)


@contextlib.contextmanager
def _cache_folder(out: Path, given: Path | None) -> Iterator[Path]:
    """Gives the folder of decoded images: the one given, or one that is gone afterwards."""
    if given is not None:
        yield given
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
        holder = tempfile.TemporaryDirectory(dir=out, prefix=".cache-")
    except OSError as error:
        raise StorageError(
            f"{out} cannot be written to: {error.strerror or error}",
            "--out names a folder that reslink may write to",
            "Choose another folder",
        ) from error
    with holder as name:
        yield Path(name)


def _judged(classifier: Classifier, cache: PixelCache, batch_size: int) -> JudgedCases:
    """Runs the network over all rows; a case whose logits are not finite counts as failed."""
    rows = np.arange(len(cache))
    batches = cache.batches(rows, batch_size)
    logits = np.concatenate([classifier.logits(cache.batch(batch)) for batch in batches]).astype(np.float64)
    finite = np.isfinite(logits).all(axis=1)
    failed = dict(cache.failed)
    for row in rows[~finite]:
        failed[cache.manifest.cases[row].name] = "The network gave a value that is not finite. Use another bundle."
    if not finite.any():
        raise InputError(
            f"The network gave no finite value for any of {len(rows)} images",
            "A bundle gives finite logits",
            "Use another bundle, or train again",
        )
    groups = twins.groups(cache.manifest, cache.thumbnails)
    return JudgedCases(
        rows=rows[finite],
        manifest=cache.manifest.subset(rows[finite].tolist()),
        groups=[groups[row] for row in rows[finite]],
        logits=logits[finite],
        probabilities=classifier.bundle.decision.probabilities(logits[finite]),
        failed=failed,
    )


def _localization(classifier: Classifier, cache: PixelCache, cases: JudgedCases, batch_size: int, seed: int) -> dict[str, Any]:
    """Measures the heat maps where a lesion mask is known; empty where none is."""
    if cache.masks is None:
        return {}
    from reslink.explain.localize import localization

    return localization(
        classifier.network,
        cache,
        cases.rows,
        classifier.labels,
        preprocess=classifier.bundle.preprocess,
        groups=cases.groups,
        batch_size=batch_size,
        seed=seed,
    )
