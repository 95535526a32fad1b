"""Fits the decision of a bundle to a data set that its network did not learn from."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from reslink.bundles import zoo
from reslink.bundles.decision import Decision, Verdicts
from reslink.bundles.decision_arrays import DecisionArrays
from reslink.bundles.decision_parts import FittedOn
from reslink.datasets import twins
from reslink.datasets.fingerprints import fingerprint
from reslink.datasets.loading import PixelCache
from reslink.datasets.manifest import Manifest
from reslink.errors import UsageError
from reslink.evaluation import leakage
from reslink.evaluation.cases import chosen_cases, decoded_in, run_network
from reslink.evaluation.fitting import Evidence, Wishes, fit, folds
from reslink.inference.classifier import Classifier
from reslink.labels import Labels
from reslink.metrics.calibration import brier_score, expected_calibration_error
from reslink.metrics.conformal import covered
from reslink.training.progress import Progress, Silent

Rows: TypeAlias = NDArray[np.int64]


def calibrate_bundle(
    bundle: str | Path,
    manifest: Manifest,
    out: Path | None = None,
    *,
    wishes: Wishes | None = None,
    split: str | None = None,
    device: str = "auto",
    batch_size: int = 32,
    cache_folder: Path | None = None,
    allow_leakage: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Fits the decision of a bundle and stores it.

    Cases that are linked to the images the network learned from are left out and listed under ``excluded``
    (:mod:`reslink.evaluation.leakage`): a network is surer of them than of new ones. The fingerprints of the cases that
    are used go into the bundle, so that ``evaluate`` leaves them out in turn.

    Args:
        bundle: The folder of a bundle, or of the run that holds it, or the name of a shipped bundle.
        manifest: The cases; their labels are among those of the bundle.
        out: The folder of the new bundle; if not given, the bundle itself is replaced.
        wishes: What the decision is to hold.
        split: Only the cases that the manifest puts there.
        device: See :func:`reslink.inference.devices.pick_device`.
        batch_size: Images that the network sees at a time.
        cache_folder: Where decoded images are kept; if not given they are gone afterwards.
        allow_leakage: Use linked cases too; the bundle then says so.
        progress: Hears what is being done.

    Returns:
        ``bundle`` (its folder), ``n``, ``n_groups``, ``excluded``, ``linked``, ``n_excluded``, ``leakage``, ``failed``,
        ``decision``, ``notes`` (what could not be fitted and why), ``held_out`` (see :func:`held_out`),
        ``research_use_only``.

    Raises:
        BundleError: If the bundle cannot be used.
        UsageError: If a label is unknown to the bundle, a class is missing, there are too few groups, or a shipped bundle
            would be replaced.
        InputError: If the network gives no finite value for any case.
        GateError: If every case is linked to the training data.
        StorageError: If the new bundle cannot be written; what stood there before still stands.
    """
    wished, listener = wishes or Wishes(), progress or Silent()
    classifier = Classifier.load(bundle, device)
    bare = replace(classifier.bundle, decision=Decision.default(len(classifier.labels)))
    folder = classifier.bundle.folder or Path(bundle)
    zoo.refuse_shipped(out or folder)
    part = chosen_cases(manifest, classifier.labels, split)
    with decoded_in((out or folder).absolute().parent, cache_folder) as place:
        cache = _decoded(part, classifier, place, listener)
        groups = twins.groups(cache.manifest, cache.thumbnails)
        leaks = leakage.find(bare, manifest, cache, groups, place, split=split, allowed=allow_leakage)
        listener.message(f"Running the network on {len(leaks.rows)} images")
        rows, found, broken = run_network(classifier, cache, leaks.rows, batch_size, statistics=True)
        assert found.statistics is not None  # noqa: S101  (they were asked for)
        evidence = Evidence(
            np.asarray(found.logits, dtype=np.float64),
            np.asarray(found.features, dtype=np.float64),
            found.statistics,
            np.array([classifier.labels.index(cache.manifest.cases[row].label) for row in rows], dtype=np.int64),
            [groups[row] for row in rows],
        )
        decision, notes = fit(evidence, wished, classifier.labels)
        used = cache.manifest.subset(rows.tolist())
        images = fingerprint(np.asarray(cache.thumbnails[rows]))
        digest = used.digest(cache.file_hashes)
    source = FittedOn(
        digest=digest,
        n_images=len(evidence),
        n_groups=evidence.n_groups,
        split=split,
        counts=dict(Counter(case.label for case in used.cases)),
        method=wished.method,
        operating_point=str(wished.point),
        leakage=leaks.status == leakage.ALLOWED,
    )
    arrays = DecisionArrays({**({} if decision.arrays is None else decision.arrays.by_name), "images": images})
    fitted = decision.model_copy(update={"fitted_on": source, "arrays": arrays})
    saved = classifier.bundle.with_decision(fitted, out)
    return {
        "bundle": str(saved.folder),
        "n": len(evidence),
        "n_groups": evidence.n_groups,
        "split": split,
        **leaks.as_dict(),
        "n_failed": len(cache.failed) + len(broken),
        "failed": dict(cache.failed) | broken,
        "decision": fitted.model_dump(mode="json"),
        "notes": notes,
        "held_out": held_out(evidence, wished, classifier.bundle.decision, classifier.labels),
        "research_use_only": True,
    }


def _decoded(part: Manifest, classifier: Classifier, folder: Path, listener: Progress) -> PixelCache:
    listener.start(len(part), "Decoding")
    done = 0

    def hear(now: int, _: int) -> None:
        nonlocal done
        listener.step(now - done)
        done = now

    try:
        return PixelCache.open(part, classifier.bundle.preprocess, folder, progress=hear)
    finally:
        listener.end()


def held_out(evidence: Evidence, wishes: Wishes, before: Decision, labels: Labels) -> dict[str, Any]:
    """Returns how a decision fitted to four fifths of the groups does on the rest, over five such divisions.

    Args:
        evidence: All cases.
        wishes: What the decision is to hold.
        before: The decision that the bundle had.
        labels: The K classes.

    Returns:
        ``brier`` and ``ece`` (``before``, ``after``), ``sets`` (``coverage``, ``coverage_by_class``, ``mean_size``,
        ``n_empty``; null where none were fitted), ``retained`` (share that the gate keeps, null where none was fitted),
        ``answered`` (share that is not abstained from), ``sensitivity`` and ``specificity`` with two classes, ``n``, and
        ``reason``, which says why the others are null where a fifth of the groups leaves too little to fit on.
    """
    found: list[tuple[Rows, Verdicts]] = []
    try:
        for inner, outer in folds(evidence):
            decision, _ = fit(evidence.take(inner), wishes, labels)
            found.append((outer, decision.judge(*_inputs(evidence, outer))))
    except UsageError as error:
        return {"reason": f"Four fifths of the groups are too few to fit on: {error.given}", "n": len(evidence)}
    rows = np.concatenate([outer for outer, _ in found])
    return {"n": len(rows), "reason": None, **_figures(evidence.take(rows), [verdicts for _, verdicts in found], before)}


def _inputs(evidence: Evidence, rows: Rows) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    return evidence.logits[rows], evidence.features[rows], evidence.statistics[rows]


def _figures(cases: Evidence, verdicts: list[Verdicts], before: Decision) -> dict[str, Any]:
    truth = cases.y_true
    now = np.concatenate([verdict.probabilities for verdict in verdicts])
    earlier = before.probabilities(cases.logits)
    predicted = np.concatenate([verdict.predicted for verdict in verdicts])
    sets = [verdict.sets for verdict in verdicts if verdict.sets is not None]
    scores = [verdict.ood_score for verdict in verdicts if verdict.ood_score is not None]
    abstain = [verdict.abstain for verdict in verdicts if verdict.abstain is not None]
    whole = len(verdicts)
    return {
        "brier": {"before": brier_score(truth, earlier), "after": brier_score(truth, now)},
        "ece": {"before": expected_calibration_error(truth, earlier), "after": expected_calibration_error(truth, now)},
        "sets": _sets(np.concatenate(sets), truth) if len(sets) == whole else None,
        "retained": float((np.concatenate(scores) <= 1).mean()) if len(scores) == whole else None,
        "answered": float((~np.concatenate(abstain)).mean()) if len(abstain) == whole else None,
        "accuracy": float((predicted == truth).mean()),
        "sensitivity": float((predicted[truth == 1] == 1).mean()) if now.shape[1] == 2 else None,
        "specificity": float((predicted[truth == 0] == 0).mean()) if now.shape[1] == 2 else None,
    }


def _sets(sets: NDArray[np.bool_], truth: NDArray[np.int64]) -> dict[str, Any]:
    held, size = covered(sets, truth), sets.sum(axis=1)
    return {
        "coverage": float(held.mean()),
        "coverage_by_class": [float(held[truth == k].mean()) for k in range(sets.shape[1])],
        "mean_size": float(size.mean()),
        "n_empty": int((size == 0).sum()),
    }
