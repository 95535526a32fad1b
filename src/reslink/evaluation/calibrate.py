"""Fits the decision of a bundle to a data set that its network did not learn from."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from reslink.bundles import storage
from reslink.bundles.decision.arrays import DecisionArrays
from reslink.bundles.decision.calibration import FittedOn
from reslink.bundles.decision.decision import Decision
from reslink.datasets.cache.pixel_cache import PixelCache
from reslink.datasets.manifest import Manifest
from reslink.datasets.near_duplicates import groups as twins
from reslink.datasets.near_duplicates.fingerprints import fingerprint
from reslink.evaluation import leakage
from reslink.evaluation.cases import chosen_cases, decoded_in, run_network
from reslink.evaluation.cross_fit import held_out
from reslink.evaluation.fitting import Evidence, Wishes, fit
from reslink.inference.classifier import Classifier, Outputs
from reslink.labels import Labels
from reslink.training.monitoring.progress import Progress, Silent, so_far

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
    """Fits the decision of a bundle and stores it; where anything fails, nothing is replaced.

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
        ``decision``, ``notes`` (what could not be fitted and why), ``held_out`` (see
        :func:`reslink.evaluation.cross_fit.held_out`), ``research_use_only``.

    Raises:
        BundleError: If the bundle cannot be used, or ``out`` holds something else; the latter is said before any work.
        UsageError: If a label is unknown to the bundle, a class is missing, there are too few groups, no threshold reaches the
            operating point, or a shipped bundle would be replaced.
        InputError: If the network gives no finite value for any case.
        GateError: If every case is linked to the training data.
        StorageError: If the new bundle cannot be written; what stood there before still stands.
    """
    wished, listener = wishes or Wishes(), progress or Silent()
    classifier = Classifier.load(bundle, device)
    bare = replace(classifier.bundle, decision=Decision.default(len(classifier.labels)))
    folder = classifier.bundle.folder or Path(bundle)
    storage.check_replaceable(out or folder)
    part = chosen_cases(manifest, classifier.labels, split)
    with decoded_in((out or folder).absolute().parent, cache_folder) as place:
        cache = _decoded(part, classifier, place, listener)
        groups = twins.groups(cache.manifest, cache.thumbnails)
        leaks = leakage.find(bare, manifest, cache, groups, place, split=split, allowed=allow_leakage)
        listener.message(f"Running the network on {len(leaks.rows)} images")
        rows, found, broken = run_network(classifier, cache, leaks.rows, batch_size, statistics=True)
        evidence = _evidence(found, rows, cache, groups, classifier.labels)
        used = cache.manifest.subset(rows.tolist())
        images = fingerprint(np.asarray(cache.thumbnails[rows]))
        digest = used.digest(cache.file_hashes)
    decision, notes = fit(evidence, wished, classifier.labels)
    checked = held_out(evidence, wished, classifier.bundle.decision, decision, classifier.labels)
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
    result = {
        "n": len(evidence),
        "n_groups": evidence.n_groups,
        "split": split,
        **leaks.as_dict(),
        "n_failed": len(cache.failed) + len(broken),
        "failed": dict(cache.failed) | broken,
        "decision": fitted.model_dump(mode="json"),
        "notes": notes,
        "held_out": checked,
        "research_use_only": True,
    }
    saved = classifier.bundle.with_decision(fitted, out)  # last: where anything above fails, nothing is replaced
    return {"bundle": str(saved.folder), **result}


def _evidence(found: Outputs, rows: Rows, cache: PixelCache, groups: list[str], labels: Labels) -> Evidence:
    assert found.statistics is not None  # noqa: S101  (they were asked for)
    return Evidence(
        np.asarray(found.logits, dtype=np.float64),
        np.asarray(found.features, dtype=np.float64),
        found.statistics,
        np.array([labels.index(cache.manifest.cases[row].label) for row in rows], dtype=np.int64),
        [groups[row] for row in rows],
    )


def _decoded(part: Manifest, classifier: Classifier, folder: Path, listener: Progress) -> PixelCache:
    listener.start(len(part), "Decoding")
    try:
        return PixelCache.open(part, classifier.bundle.preprocess, folder, progress=so_far(listener))
    finally:
        listener.end()
