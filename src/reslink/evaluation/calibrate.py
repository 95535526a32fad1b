"""Calibration of a bundle: fits its decision to data that the network was not trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from reslink.bundles import zoo
from reslink.bundles.bundle import Bundle
from reslink.bundles.decision.arrays import DecisionArrays
from reslink.bundles.decision.calibration import FittedOn
from reslink.bundles.decision.decision import Decision
from reslink.bundles.record import BUNDLE_JSON
from reslink.datasets.cache.pixel_cache import PixelCache
from reslink.datasets.manifest import Manifest
from reslink.datasets.near_duplicates.fingerprints import make_fingerprints
from reslink.datasets.near_duplicates.groups import leakage_groups
from reslink.datasets.several_sources import check_per_source
from reslink.evaluation import leakage
from reslink.evaluation.cases import RunOptions, pixel_cache_folder, refused_cases, run_network, select_cases
from reslink.evaluation.cross_fit import cross_fit_metrics
from reslink.evaluation.fitting import CalibrationData, DecisionOptions, fit_decision
from reslink.files import check_replaceable
from reslink.inference.classifier import Classifier
from reslink.inference.outputs import Outputs
from reslink.labels import Labels
from reslink.training.monitoring.progress import Progress, SilentProgress, phase, progress_callback

Rows: TypeAlias = NDArray[np.int64]


def calibrate_bundle(
    bundle: str | Path | Bundle,
    manifest: Manifest,
    out: Path | None = None,
    decision_options: DecisionOptions | None = None,
    options: RunOptions | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Fits the decision of a bundle and stores it. If anything fails, nothing is replaced.

    Cases that overlap with the training data are excluded and listed under ``excluded`` (:mod:`reslink.evaluation.leakage`),
    because a network is more confident about them than about new cases. The fingerprints of the calibration cases are stored
    in the bundle, so that ``evaluate`` excludes them in turn. A bundle for CT refuses slices that show little brain from then
    on, also one that was made before this rule.

    Args:
        bundle: The name of a shipped model, the folder of a bundle or run, or a loaded bundle.
        manifest: The cases; the bundle must know their labels.
        out: The folder of the new bundle; None replaces the bundle itself.
        decision_options: The components to fit.
        options: How the network is run. With ``allow_leakage`` the new bundle states that leaked cases were used.
        progress: Receives the progress.

    Returns:
        ``bundle`` (its folder), ``n``, ``n_groups``, ``split``, ``excluded``, ``n_excluded``, ``leaked``, ``leakage``,
        ``n_failed``, ``failed``, ``n_refused``, ``refused`` (reason by case name), ``decision``, ``notes`` (why a component
        could not be fitted), ``cross_fit`` (see :func:`reslink.evaluation.cross_fit.cross_fit_metrics`), ``research_use_only``.

    Raises:
        BundleError: If the bundle cannot be used, or ``out`` holds something else; the latter is checked before any work.
        UsageError: If the bundle does not know a label, a class is missing, there are too few groups, no threshold reaches the
            operating point, or a shipped model would be replaced.
        InputError: If the network returns no finite value for any case, or every case is outside the scope of the bundle.
        CheckFailedError: If every case overlaps with the training data.
        StorageError: If the new bundle cannot be written; the previous files are kept.
    """
    decision_options, options = decision_options or DecisionOptions(), options or RunOptions()
    progress = progress or SilentProgress()
    loaded = bundle if isinstance(bundle, Bundle) else Bundle.load(bundle)
    classifier = Classifier.load(_prepared(loaded, flip_average=decision_options.flip_average), options.device)
    uncalibrated = replace(classifier.bundle, decision=_uncalibrated(classifier.labels))
    target = out or cast(Path, classifier.bundle.folder)  # a bundle that has weights is saved
    zoo.check_not_shipped(target)
    check_replaceable(target, BUNDLE_JSON, "bundle")
    selected = select_cases(manifest, classifier.labels, options.split)
    check_per_source(selected, decision_options.per_source)
    with pixel_cache_folder(target.absolute().parent, options.cache_folder) as folder:
        cache = open_cache(selected, classifier, folder, progress)
        groups = cache.case_groups(leakage_groups(cache.row_manifest, cache.thumbnails))
        leaks = leakage.find_leakage(uncalibrated, manifest, cache, groups, folder, options)
        progress.message(f"Running the network on {len(leaks.rows)} {'series' if cache.is_series else 'images'}")
        rows, outputs, not_finite = run_network(classifier, cache, leaks.rows, options.batch_size, statistics=True)
        stated = [cache.case_stated[row] for row in rows]
        results = classifier.decide(outputs, stated=stated)
        refused = refused_cases(classifier, results, cache.manifest.subset(rows.tolist()))
        data = _calibration_data(outputs, rows, cache, groups, classifier.bundle, options)
        cases = data.without_refused(classifier.bundle.scope, stated, results.refusals)
        rows = rows[np.array([reason is None for reason in results.refusals])]
        used = cache.manifest.subset(rows.tolist())
        fingerprints = make_fingerprints(np.asarray(cache.thumbnails[cache.rows_of(rows)]))
        digest = used.digest(cache.file_hashes)
    check_per_source(used, decision_options.per_source)
    decision, notes = fit_decision(cases, decision_options, classifier.labels)
    cross_fit = cross_fit_metrics(cases, decision_options, classifier.bundle.decision, decision, classifier.labels)
    fitted_on = FittedOn(
        digest=digest,
        n_images=len(cases),
        n_groups=cases.n_groups,
        split=options.split,
        counts=dict(used.label_counts()),
        method=decision_options.method,
        operating_point=str(decision_options.operating_point),
        leakage=leaks.status == leakage.ALLOWED,
    )
    arrays = DecisionArrays({**({} if decision.arrays is None else decision.arrays.by_name), "images": fingerprints})
    fitted = decision.model_copy(update={"fitted_on": fitted_on, "arrays": arrays})
    result = {
        "n": len(cases),
        "n_groups": cases.n_groups,
        "split": options.split,
        **leaks.as_dict(),
        "n_failed": len(cache.failed) + len(not_finite),
        "failed": dict(cache.failed) | not_finite,
        "n_refused": len(refused),
        "refused": refused,
        "decision": fitted.model_dump(mode="json"),
        "notes": notes,
        "cross_fit": cross_fit,
        "research_use_only": True,
    }
    saved = classifier.bundle.with_decision(fitted, out)  # last: if anything above fails, nothing is replaced
    return {"bundle": str(saved.folder), **result}


def _prepared(bundle: Bundle, *, flip_average: bool) -> Bundle:
    """Returns the bundle that averages mirror images as asked, and refuses slices that show little brain."""
    if flip_average:
        bundle.labels.require_exclusive("--flip-average", "Calibrate without it")
        bundle.require_slices("--flip-average")
    decision = bundle.decision.model_copy(update={"flip_average": flip_average})
    return replace(bundle, decision=decision, scope=bundle.scope.with_brain_rule(bundle.preprocess))


def _calibration_data(
    outputs: Outputs, rows: Rows, cache: PixelCache, groups: list[str], bundle: Bundle, options: RunOptions
) -> CalibrationData:
    assert outputs.statistics is not None  # noqa: S101  (run_network was called with statistics=True)
    used, previous = cache.manifest.subset(rows.tolist()), options.previous_logits
    return CalibrationData(
        np.asarray(outputs.logits, dtype=np.float64),
        np.asarray(outputs.features, dtype=np.float64),
        outputs.statistics,
        _targets(used, bundle.labels),
        [groups[row] for row in rows],
        sources=_sources(used),
        previous_logits=None if previous is None else np.array([previous[case.name] for case in used.cases], np.float64),
    )


def _sources(manifest: Manifest) -> list[str | None]:
    """Returns the source of each case; empty if none states one."""
    sources = [case.source for case in manifest.cases]
    return sources if any(sources) else []


def _targets(manifest: Manifest, labels: Labels) -> NDArray[np.int64]:
    """Returns (n,) class indices of the model, or (n, K) states of its labels."""
    if not labels.exclusive:
        return np.array(manifest.targets, dtype=np.int64)
    return np.array([labels.index(case.label) for case in manifest.cases], dtype=np.int64)


def _uncalibrated(labels: Labels) -> Decision:
    return Decision.default(len(labels), exclusive=labels.exclusive)


def open_cache(manifest: Manifest, classifier: Classifier, folder: Path, progress: Progress) -> PixelCache:
    """Opens the decoded cases of a data set for the preprocessing of a bundle."""
    with phase(progress, len(manifest), "Decoding", "image"):
        bundle, callback = classifier.bundle, progress_callback(progress)
        return PixelCache.open(manifest, bundle.preprocess, folder, on_progress=callback, case=bundle.case)
