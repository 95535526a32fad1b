"""Evaluation of a bundle: metrics with intervals over patients, one prediction per case, and the cases that failed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reslink.bundles.bundle import Bundle
from reslink.bundles.decision.decision import Decision
from reslink.bundles.pretrained import usage_notes
from reslink.datasets.cache.pixel_cache import PixelCache
from reslink.datasets.grouping import GroupBy, group_cases
from reslink.datasets.manifest import Manifest, data_set_name
from reslink.datasets.near_duplicates.groups import leakage_groups
from reslink.evaluation import leakage
from reslink.evaluation.cases import RunOptions, pixel_cache_folder, refused_cases, run_network, select_cases
from reslink.evaluation.class_statistics import class_statistics
from reslink.evaluation.predictions_csv import CasePredictions, write_predictions
from reslink.evaluation.selective import selective_metrics
from reslink.evaluation.several_labels import LabeledStates, evaluate_labels
from reslink.evaluation.subgroup_columns import check_columns, with_source
from reslink.evaluation.subgroups import LabeledPredictions, subgroups
from reslink.files import write_json
from reslink.inference.classifier import Classifier
from reslink.labels import Labels
from reslink.metrics.classification import classification_metrics, confusion_matrix
from reslink.metrics.differences import Predictions

_log = logging.getLogger(__name__)

PREDICTIONS_PARQUET: Final = "predictions.parquet"

_SCANS_NOTE: Final = (
    "Intervals resample probable scans where no patient is stated, as the split of the model keeps them together"
)


@dataclass(frozen=True)
class EvaluationOptions(RunOptions):
    """How a bundle is evaluated.

    Attributes:
        subgroup_columns: Columns of the data set; metrics are also computed for each of their values, and for each source if
            there are several. See :func:`reslink.evaluation.subgroups.assign_subgroups`.
        localization: Measure whether the attention and Grad-CAM maps point at the lesion, for cases with a lesion mask.
        seed: Seed of the bootstrap.
        data_name: Name of the data set; None for that of the manifest.
        parquet: Also write ``predictions.parquet``.
    """

    subgroup_columns: Sequence[str] = ()
    localization: bool = True
    seed: int = 0
    data_name: str | None = None
    parquet: bool = False


def evaluate_cases(
    y_true: ArrayLike,
    probabilities: ArrayLike,
    groups: Sequence[str],
    labels: Labels,
    decision: Decision,
    seed: int = 0,
) -> dict[str, Any]:
    """Returns the metrics of some predictions, as in ``evaluation.json``.

    Args:
        y_true: (n,) class indices.
        probabilities: (n, K), from ``decision.probabilities``.
        groups: (n,) patient or duplicate group of each case; intervals are over groups.
        labels: The K classes; with two, the metrics describe the last one, the positive class.
        decision: The decision that turns probabilities into classes.
        seed: Seed of the bootstrap.

    Returns:
        ``n``, ``n_groups``, ``labels``, ``positive``, ``decision``, ``metrics`` (each ``estimate, ci_low, ci_high,
        method, n``; null if undefined, with the reason in ``method``), ``per_class``, ``confusion_matrix``
        (``labels``, ``counts`` of true by predicted class), ``calibration``, ``decision_curve`` and
        ``likelihood_ratios`` (see :func:`reslink.evaluation.class_statistics.class_statistics`), ``localization`` (empty),
        ``research_use_only``.

    Raises:
        InputError: If there is no case, or the array lengths differ.
    """
    scores = np.asarray(probabilities, dtype=np.float64)
    y_pred = decision.predict(scores)
    metrics, per_class = classification_metrics(y_true, scores, y_pred, groups, labels.names, seed)
    return {
        "n": len(y_pred),
        "n_groups": len(set(groups)),
        "labels": list(labels.names),
        "positive": labels.positive,
        "decision": decision.model_dump(mode="json"),
        "metrics": {name: estimate.as_dict() for name, estimate in metrics.items()},
        "per_class": {
            label: {name: estimate.as_dict() for name, estimate in values.items()} for label, values in per_class.items()
        },
        "confusion_matrix": {"labels": list(labels.names), "counts": confusion_matrix(y_true, y_pred, len(labels))},
        **class_statistics(np.asarray(y_true, dtype=np.int64), scores, y_pred, groups, labels, seed),
        "localization": {},
        "research_use_only": True,
    }


def evaluate_bundle(
    bundle: str | Path | Bundle, manifest: Manifest, out: Path, options: EvaluationOptions | None = None
) -> dict[str, Any]:
    """Evaluates a bundle on a data set and writes ``evaluation.json`` and ``predictions.csv``.

    Images pass through the same cache and preprocessing as in training. Cases that cannot be read are counted and listed
    under ``failed``, and those outside the scope of the bundle under ``refused``; the others are evaluated. Cases that
    overlap with the training data are excluded and listed under ``excluded`` (:mod:`reslink.evaluation.leakage`).

    Args:
        bundle: The name of a shipped model, the folder of a bundle or run, or a loaded bundle.
        manifest: The cases; the bundle must know their labels.
        out: The output folder.
        options: Options of the evaluation.

    Returns:
        The content of ``evaluation.json``: the result of :func:`evaluate_cases`, and ``failed`` (error message by case name),
        ``n_failed``, ``refused`` (reason by case name), ``n_refused``, ``selective``
        (:func:`reslink.evaluation.selective.selective_metrics`), ``subgroups`` (by column and value), ``group_by`` (``both``,
        or ``scan`` if probable scans are groups), ``data`` (name of the data set), ``date`` (day of the evaluation, UTC),
        ``split``, ``bundle`` (its name), ``bundle_sha256`` (hash of its weights),
        ``usage_notes`` (of a shipped model), ``columns`` (role to header of the table), ``data_notes``
        (:attr:`Manifest.notes`), and ``excluded``, ``leaked`` and ``leakage``
        (:meth:`reslink.evaluation.leakage.Leakage.as_dict`).

    Raises:
        BundleError: If the bundle cannot be used.
        UsageError: If the bundle does not know a label, no case is in the split, or no case can be read.
        InputError: If the network returns no finite value for any case, or every case is refused.
        CheckFailedError: If a patient or near duplicate of the split is also in the training split, or every case overlaps
            with the training data.
        StorageError: If the results cannot be written.
    """
    return evaluate_and_predict(bundle, manifest, out, options)[0]


def evaluate_and_predict(
    bundle: str | Path | Bundle, manifest: Manifest, out: Path, options: EvaluationOptions | None = None
) -> tuple[dict[str, Any], CasePredictions]:
    """Evaluates a bundle as :func:`evaluate_bundle` does, and also returns the predictions, those of refused cases included."""
    options = options or EvaluationOptions()
    classifier = Classifier.load(bundle, options.device)
    selected = select_cases(manifest, classifier.labels, options.split)
    check_columns(selected, options.subgroup_columns)
    if options.subgroup_columns:
        classifier.labels.require_exclusive("--by", "Omit --by, and evaluate each subgroup as a table of its own")
    with pixel_cache_folder(out, options.cache_folder) as folder:
        if options.cluster is not None:
            options.cluster.fill_cache(selected, classifier.bundle.preprocess, folder, classifier.bundle.case)
        cache = PixelCache.open(selected, classifier.bundle.preprocess, folder, case=classifier.bundle.case)
        groups = cache.case_groups(leakage_groups(cache.row_manifest, cache.thumbnails))
        leaks = leakage.find_leakage(classifier.bundle, manifest, cache, groups, folder, options)
        groups, group_by = _resampled_groups(classifier.bundle, cache, groups)
        cases = replace(_predict(classifier, cache, groups, leaks.rows, options), group_by=group_by)
        refused = refused_cases(classifier, cases.decision_results, cases.manifest) if cases.decision_results else {}
        in_scope = cases.in_scope()
        localization = _localization(classifier, cache, in_scope, options) if options.localization else {}
    options = replace(options, subgroup_columns=with_source(in_scope.manifest.cases, options.subgroup_columns))
    result = _metrics(classifier, in_scope, options) | {"localization": localization}
    result |= {"n_refused": len(refused), "refused": refused}
    leakage.mark_leakage(result, leaks)
    notes = [*manifest.notes, *cache.notes, *([_SCANS_NOTE] if group_by == "scan" else [])]
    result |= {"data": options.data_name or data_set_name(manifest), "date": datetime.now(UTC).date().isoformat()}
    result |= leaks.as_dict() | {"columns": dict(manifest.column_roles), "data_notes": notes}
    write_predictions(out / "predictions.csv", cases, classifier.labels, classifier.bundle.decision)
    if options.parquet:
        write_predictions(out / PREDICTIONS_PARQUET, cases, classifier.labels, classifier.bundle.decision)
    elif (out / "evaluation.json").exists():
        (out / PREDICTIONS_PARQUET).unlink(missing_ok=True)  # of an earlier evaluation
    write_json(out / "evaluation.json", result)
    return result, cases


def _resampled_groups(bundle: Bundle, cache: PixelCache, groups: list[str]) -> tuple[list[str], GroupBy]:
    """Returns the groups that intervals resample: ``scan`` if the split of the model keeps probable scans together."""
    recipe = bundle.provenance.get("recipe") or {}
    unknown = any(case.patient_id is None for case in cache.row_manifest.cases)
    if recipe.get("data", {}).get("group_by") != "scan" or not unknown or cache.is_series:
        return groups, "both"
    return cache.case_groups(group_cases(cache.row_manifest, cache.thumbnails, "scan")), "scan"


def _predict(
    classifier: Classifier, cache: PixelCache, groups: Sequence[str], rows: NDArray[np.int64], options: RunOptions
) -> CasePredictions:
    """Runs the network on some cases; a case whose outputs are not finite counts as failed."""
    finite_rows, outputs, not_finite = run_network(classifier, cache, rows, options.batch_size, cluster=options.cluster)
    results = classifier.decide(outputs, stated=[cache.case_stated[row] for row in finite_rows])
    return CasePredictions(
        rows=finite_rows,
        manifest=cache.manifest.subset(finite_rows.tolist()),
        groups=[groups[row] for row in finite_rows],
        logits=np.asarray(outputs.logits, dtype=np.float64),
        probabilities=results.probabilities,
        failed=dict(cache.failed) | not_finite,
        hashes=[cache.hashes[row] for row in finite_rows],
        decision_results=results,
    )


def _metrics(classifier: Classifier, cases: CasePredictions, options: EvaluationOptions) -> dict[str, Any]:
    bundle = classifier.bundle
    measured = _metrics_of_classes if classifier.labels.exclusive else _metrics_of_labels
    return {
        **measured(classifier, cases, options),
        "group_by": cases.group_by,
        "split": options.split,
        "n_failed": len(cases.failed),
        "failed": cases.failed,
        "bundle": bundle.name,
        "bundle_sha256": bundle.weights_sha256,
        # The note on a missing out-of-distribution detector is left to "selective".
        "usage_notes": usage_notes(bundle.provenance, has_ood_detector=True),
    }


def _metrics_of_classes(classifier: Classifier, cases: CasePredictions, options: EvaluationOptions) -> dict[str, Any]:
    """Returns the metrics of one class per image, also by subgroup."""
    labels, decision, seed = classifier.labels, classifier.bundle.decision, options.seed
    y_true = np.array([labels.index(case.label) for case in cases.manifest.cases], dtype=np.int64)
    predictions = Predictions(cases.probabilities, decision.predict(cases.probabilities))
    abstain = None if cases.decision_results is None else cases.decision_results.abstain
    labeled = LabeledPredictions(y_true, predictions, cases.groups, labels, seed, abstain)
    return {
        **evaluate_cases(y_true, cases.probabilities, cases.groups, labels, decision, seed),
        "selective": selective_metrics(y_true, cases.decision_results, cases.groups, labels, seed),
        "subgroups": subgroups(cases.manifest.cases, options.subgroup_columns, labeled),
    }


def _metrics_of_labels(classifier: Classifier, cases: CasePredictions, options: EvaluationOptions) -> dict[str, Any]:
    """Returns the metrics of several labels at once."""
    states, results, decision = np.array(cases.manifest.targets), cases.decision_results, classifier.bundle.decision
    labeled = LabeledStates(states, cases.probabilities, cases.groups, classifier.labels, decision, results, options.seed)
    return {**evaluate_labels(labeled, evaluate_cases), "subgroups": {}}


def _localization(
    classifier: Classifier, cache: PixelCache, cases: CasePredictions, options: EvaluationOptions
) -> dict[str, Any]:
    """Measures whether the maps point at the lesion; empty if no case has a lesion mask."""
    if cache.masks is None:
        return {}
    if not classifier.bundle.can_build_network:
        name = classifier.bundle.architecture["name"]
        _log.warning("Whether the maps of %s point at the lesions is not measured: it is not built without its code.", name)
        return {}
    from reslink.explain.localize import localization

    return localization(
        classifier.network,
        cache,
        cases.rows,
        classifier.labels,
        preprocess=classifier.bundle.preprocess,
        groups=cases.groups,
        batch_size=options.batch_size,
        seed=options.seed,
    )
