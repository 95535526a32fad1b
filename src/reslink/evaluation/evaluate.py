"""Judges a classifier: figures with intervals over patients, a prediction for each case, and what could not be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reslink.bundles.decision.decision import Decision
from reslink.bundles.pretrained import read_first
from reslink.datasets.cache.pixel_cache import PixelCache
from reslink.datasets.manifest import Manifest
from reslink.datasets.near_duplicates import groups as twins
from reslink.evaluation import leakage
from reslink.evaluation.cases import chosen_cases, decoded_in, run_network
from reslink.evaluation.selective import selective
from reslink.evaluation.statistics import statistics
from reslink.evaluation.subgroups import Judged, check_columns, subgroups
from reslink.evaluation.tables import JudgedCases, write_predictions
from reslink.files import write_json
from reslink.inference.classifier import Classifier
from reslink.labels import Labels
from reslink.metrics.classification import confusion, estimates
from reslink.metrics.differences import Answers


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
        (``labels``, ``counts`` of true by predicted class), ``calibration``, ``decision_curve`` and
        ``likelihood_ratios`` (see :func:`reslink.evaluation.statistics.statistics`), ``localization``,
        ``research_use_only``.

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
        **statistics(np.asarray(y_true, dtype=np.int64), scores, y_pred, groups, labels, seed),
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
    by: Sequence[str] = (),
    explain_masks: bool = True,
    cache_folder: Path | None = None,
    batch_size: int = 32,
    seed: int = 0,
    allow_leakage: bool = False,
    linked: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Judges a bundle on the cases of a data set and writes ``evaluation.json`` and ``predictions.csv``.

    Cases are read through the same cache and preprocessing as in training. A case that cannot be read is counted and
    listed under ``failed``, the others go on. A case that is linked to the images that the bundle learned from is left
    out and listed under ``excluded`` (:mod:`reslink.evaluation.leakage`).

    Args:
        bundle: The folder of a bundle, or of the run that holds it, or the name of a shipped bundle.
        manifest: The cases; their labels are among those of the bundle.
        out: The folder to write to.
        device: See :func:`reslink.inference.devices.pick_device`.
        split: ``train``, ``validation`` or ``test``: only the cases that the manifest puts there. None takes all.
        by: Columns of the table to divide the cases by; see :func:`reslink.evaluation.subgroups.divide`.
        explain_masks: Whether to measure where the network looks, on the cases whose lesion mask is known.
        cache_folder: Where decoded images are kept; if not given they are gone afterwards.
        batch_size: Images that the network sees at a time.
        seed: Seed of the bootstrap.
        allow_leakage: Judge linked cases too; each figure then holds ``"leakage": true``.
        linked: Why a case is linked to the training data, by its name, where that is known from the division of the data;
            found by the fingerprints in the bundle where None.

    Returns:
        What ``evaluation.json`` holds: that of :func:`evaluate_cases`, and ``failed`` (a message by case name),
        ``n_failed``, ``subgroups`` (by column and value), ``split``, ``bundle`` (what it is called), ``bundle_sha256`` (of
        its weights), ``read_first`` (what must be known of a bundle that ships),
        and ``excluded``, ``linked`` and ``leakage`` (:meth:`reslink.evaluation.leakage.Leakage.as_dict`).

    Raises:
        BundleError: If the bundle cannot be used.
        UsageError: If a label is unknown to the bundle, no case is in the split, or not one case can be read.
        InputError: If the network gives no finite value for any case.
        GateError: If the split has a patient or near copies on both sides, or every case is linked to the training data.
        StorageError: If the results cannot be written.
    """
    classifier = Classifier.load(bundle, device)
    part = chosen_cases(manifest, classifier.labels, split)
    check_columns(part, by)
    with decoded_in(out, cache_folder) as folder:
        cache = PixelCache.open(part, classifier.bundle.preprocess, folder)
        groups = twins.groups(cache.manifest, cache.thumbnails)
        leaks = leakage.find(
            classifier.bundle, manifest, cache, groups, folder, split=split, allowed=allow_leakage, known=linked
        )
        cases = _judged(classifier, cache, batch_size, groups, leaks.rows)
        found = _localization(classifier, cache, cases, batch_size, seed) if explain_masks else {}
    decision = classifier.bundle.decision
    truth = [classifier.labels.index(case.label) for case in cases.manifest.cases]
    result = evaluate_cases(truth, cases.probabilities, cases.groups, classifier.labels, decision, found, seed)
    judged = Judged(
        np.array(truth),
        Answers(cases.probabilities, decision.predict(cases.probabilities)),
        cases.groups,
        classifier.labels,
        seed,
    )
    result["selective"] = selective(judged.y_true, cases.verdicts, cases.groups, classifier.labels, seed)
    result["subgroups"] = subgroups(cases.manifest.cases, by, judged)
    result |= {"split": split, "n_failed": len(cases.failed), "failed": cases.failed}
    result |= {"bundle": classifier.bundle.name, "bundle_sha256": classifier.bundle.weights_sha256}
    result["read_first"] = read_first(classifier.bundle.provenance, gated=True)  # the gate has a part of its own
    leakage.mark(result, leaks)
    result |= leaks.as_dict()
    write_predictions(out / "predictions.csv", cases, classifier.labels, decision)
    write_json(out / "evaluation.json", result)
    return result


def _judged(
    classifier: Classifier, cache: PixelCache, batch_size: int, groups: Sequence[str], rows: NDArray[np.int64]
) -> JudgedCases:
    """Runs the network over some rows; a case whose outputs are not finite counts as failed."""
    kept, found, broken = run_network(classifier, cache, rows, batch_size)
    verdicts = classifier.bundle.decision.judge(found.logits, found.features, found.statistics)
    return JudgedCases(
        rows=kept,
        manifest=cache.manifest.subset(kept.tolist()),
        groups=[groups[row] for row in kept],
        logits=np.asarray(found.logits, dtype=np.float64),
        probabilities=verdicts.probabilities,
        failed=dict(cache.failed) | broken,
        verdicts=verdicts,
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
