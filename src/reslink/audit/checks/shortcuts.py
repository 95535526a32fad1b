"""Shortcut probes: models that see no brain, or very little of it, and still try to predict the class."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.feature_extraction import DictVectorizer

from reslink.audit.cross_validation import Floats, Ints, balanced_accuracy, min_groups_per_class, out_of_fold_probabilities
from reslink.audit.extract import FileFeatures
from reslink.audit.features.header import HeaderFeatures
from reslink.audit.features.outside_head import FEATURE_NAMES
from reslink.metrics.comparison import holm
from reslink.metrics.intervals import MIN_GROUPS, Estimate

ProbeName = Literal["file_metadata", "outside_head", "histogram", "thumbnail"]
CHECKED_PROBES: Final[tuple[ProbeName, ...]] = ("file_metadata", "outside_head")
"""Probes that see nothing of the brain. The histogram and the thumbnail of the whole image see it and are informational."""

MARGIN: Final = 0.05
"""A check fails if the probe's interval is above chance by more than this."""

SIGNIFICANCE_LEVEL: Final = 0.025
"""One-sided, to match the lower end of a 95 % interval."""

TREES: Final = 50


@dataclass(frozen=True)
class ProbeResult:
    """The result of one probe.

    Attributes:
        probe: Name of the probe.
        balanced_accuracy: Out-of-fold mean of the sensitivities (recalls) of the classes, with an interval over groups.
        chance: 1 / number of classes.
        p_value: One-sided, against chance + 0.05 for a check and against chance for an informational probe; None without an
            interval.
        p_holm: The p-value after Holm's correction over all probes.
        top_features: The most important features, most important first.
        rows: (m,) indices of the cases that the probe could use.
        y_prob: (m, K) out-of-fold probabilities, with ``equal_shares`` as if the classes were equally frequent.
        label: The label that the probe predicts, of several labels at once: absent (0) or present (1); None for the class.
        sampled_from: Number of cases of which the probe got a sample; None if it got all.
    """

    probe: ProbeName
    balanced_accuracy: Estimate
    chance: float
    p_value: float | None
    top_features: tuple[str, ...]
    rows: Ints
    y_prob: Floats
    p_holm: float | None = None
    label: str | None = None
    sampled_from: int | None = None

    @property
    def name(self) -> str:
        """Name of the probe, and of its label if there are several at once."""
        return probe_name(self.probe, self.label)

    @property
    def is_check(self) -> bool:
        """Whether the verdict depends on this probe; other probes are informational."""
        return self.probe in CHECKED_PROBES

    @property
    def above_chance(self) -> bool:
        """Whether the 95 % interval is above chance."""
        low = self.balanced_accuracy.ci_low
        return low is not None and low > self.chance

    @property
    def failed(self) -> bool:
        """Whether a check is above chance + 0.05, both by its interval and after Holm's correction."""
        low = self.balanced_accuracy.ci_low
        above_margin = low is not None and low > self.chance + MARGIN
        return self.is_check and above_margin and self.p_holm is not None and self.p_holm <= SIGNIFICANCE_LEVEL

    def as_dict(self) -> dict[str, Any]:
        """Returns the JSON form."""
        return {
            "probe": self.probe,
            "label": self.label,
            "balanced_accuracy": self.balanced_accuracy.as_dict(),
            "chance": self.chance,
            "above_chance": self.above_chance,
            "is_check": self.is_check,
            "failed": self.failed,
            "p_value": self.p_value,
            "p_holm": self.p_holm,
            "top_features": list(self.top_features),
            **({} if self.sampled_from is None else {"sample": {"images": len(self.rows), "of": self.sampled_from}}),
        }


@dataclass(frozen=True)
class _Cases:
    """The labels of the cases that a probe can use.

    Attributes:
        rows: (m,) indices in the data set.
        targets: (m,) class indices.
        groups: (m,) group names.
        num_classes: K.
        seed: Seed of folds, forests and bootstrap.
        equal_shares: See :func:`run_probes`.
    """

    rows: Ints
    targets: Ints
    groups: NDArray[np.str_]
    num_classes: int
    seed: int
    equal_shares: bool = False


def run_probes(
    items: Sequence[FileFeatures],
    targets: Ints,
    groups: Sequence[str],
    num_classes: int,
    seed: int = 0,
    *,
    equal_shares: bool = False,
    probes: Collection[ProbeName] = get_args(ProbeName),
) -> Iterator[ProbeResult | tuple[ProbeName, str]]:
    """Runs the probes, one after the other.

    Each probe is a forest of extremely randomized trees (Geurts et al., Machine Learning 63:3, 2006), with balanced class
    weights unless ``equal_shares`` is set, which fits in a fraction of the time of a random forest.
    It is evaluated out of fold with ``StratifiedGroupKFold`` over the groups, so that no patient and no group of near
    duplicates is split between folds.

    Args:
        items: The features of each case.
        targets: (n,) class indices.
        groups: The group of each case: patient, near duplicates, or both combined.
        num_classes: K.
        seed: Seed of folds, forests and bootstrap.
        equal_shares: Divide the probability of each class by its share instead of weighting the cases. A forest with weights
            hardly ever predicts a rare class from continuous features, and misses shortcuts to it.
        probes: The probes to run.

    Yields:
        The result of each probe, or its name and the reason why it could not run. Holm's correction is not applied yet, see
        :func:`with_holm_correction`.
    """
    names = np.asarray(groups, dtype=str)
    for probe, probe_features in _PROBE_FEATURES.items():
        if probe not in probes:
            continue
        usable = [i for i, item in enumerate(items) if probe != "outside_head" or item.outside_head is not None]
        rows = np.array(usable, np.int64)
        cases = _Cases(rows, targets[rows], names[rows], num_classes, seed, equal_shares)
        reason = _skip_reason(cases)
        if reason:
            yield probe, reason
            continue
        features, feature_names = probe_features([items[i] for i in rows])
        yield _run_probe(probe, features, feature_names, cases)


def probe_name(probe: str, label: str | None) -> str:
    """Returns the name of a probe, such as ``file_metadata``, or ``file_metadata: subdural`` for one of several labels."""
    return probe if label is None else f"{probe}: {label}"


def with_holm_correction(probes: Sequence[ProbeResult]) -> list[ProbeResult]:
    """Returns the probes with Holm's correction over all of them (Holm 1979)."""
    return [replace(probe, p_holm=p) for probe, p in zip(probes, holm([probe.p_value for probe in probes]), strict=True)]


def _skip_reason(cases: _Cases) -> str:
    """Returns why a probe cannot run on these cases, '' if it can."""
    fewest, count = min_groups_per_class(cases.targets, cases.groups, cases.num_classes), len(np.unique(cases.groups))
    if fewest < 2:
        return f"a class has {fewest} independent groups of usable images, and cross-validation needs at least 2"
    if count < MIN_GROUPS:
        return f"there are {count} independent groups of images, and an interval needs at least {MIN_GROUPS}"
    return ""


def _run_probe(probe: ProbeName, features: Any, feature_names: Sequence[str], cases: _Cases) -> ProbeResult:
    def forest() -> ExtraTreesClassifier:
        weight = None if cases.equal_shares else "balanced"
        return ExtraTreesClassifier(
            TREES, min_samples_leaf=2, max_features="sqrt", class_weight=weight, random_state=cases.seed
        )

    num_classes, chance = cases.num_classes, 1 / cases.num_classes
    if not feature_names:
        uniform = np.full((len(cases.rows), num_classes), chance)
        estimate = Estimate(chance, chance, chance, "every image has the same features", len(cases.rows))
        return ProbeResult(probe, estimate, chance, 1.0, (), cases.rows, uniform)
    y_prob = out_of_fold_probabilities(features, cases.targets, cases.groups, num_classes, forest, cases.seed)
    if cases.equal_shares:
        weighted = y_prob / np.bincount(cases.targets, minlength=num_classes)
        y_prob = weighted / weighted.sum(axis=1, keepdims=True)
    limit = chance + MARGIN if probe in CHECKED_PROBES else chance
    estimate, p_value = balanced_accuracy(cases.targets, y_prob.argmax(axis=1), cases.groups, num_classes, limit, cases.seed)
    top_features = _top_features(forest().fit(features, cases.targets), feature_names)
    return ProbeResult(probe, estimate, chance, p_value, top_features, cases.rows, y_prob)


def _top_features(forest: ExtraTreesClassifier, feature_names: Sequence[str]) -> tuple[str, ...]:
    """Returns the features with the largest impurity-based importance; none if no tree found a split."""
    with np.errstate(invalid="ignore"):
        weights = np.nan_to_num(forest.feature_importances_)
    ranked = [feature_names[i] for i in np.argsort(-weights, kind="stable") if weights[i] > 0]
    return tuple(dict.fromkeys(ranked))[:5]


def _metadata_features(items: Sequence[FileFeatures]) -> tuple[Any, list[str]]:
    """Turns text into one column per category, and drops columns that are the same in all files."""
    headers: list[HeaderFeatures] = [item.header for item in items]
    vectorizer = DictVectorizer(dtype=np.float32, sparse=False)
    matrix = vectorizer.fit_transform(headers)
    varied = np.flatnonzero(np.ptp(matrix, axis=0) > 0)
    # A category of a single file says nothing about other files, and there may be thousands of them.
    kept = [i for i in varied if "=" not in vectorizer.feature_names_[i] or int((matrix[:, i] > 0).sum()) > 1]
    return matrix[:, kept], [vectorizer.feature_names_[i].split("=")[0] for i in kept]


def _outside_head_features(items: Sequence[FileFeatures]) -> tuple[Any, list[str]]:
    matrix = np.stack([item.outside_head for item in items if item.outside_head is not None])
    return matrix, list(FEATURE_NAMES) if np.ptp(matrix, axis=0).any() else []


def _histogram_features(items: Sequence[FileFeatures]) -> tuple[Any, list[str]]:
    matrix = np.stack([item.histogram for item in items])
    return matrix, [f"gray level {i + 1} of {matrix.shape[1]}" for i in range(matrix.shape[1])]


def _thumbnail_features(items: Sequence[FileFeatures]) -> tuple[Any, list[str]]:
    matrix = np.stack([item.tiny_thumbnail.reshape(-1) for item in items])
    side = items[0].tiny_thumbnail.shape[0]
    return matrix, [f"pixel in row {i // side + 1}, column {i % side + 1} of {side}" for i in range(matrix.shape[1])]


_PROBE_FEATURES: Final[dict[ProbeName, Callable[[Sequence[FileFeatures]], tuple[Any, list[str]]]]] = {
    "file_metadata": _metadata_features,
    "outside_head": _outside_head_features,
    "histogram": _histogram_features,
    "thumbnail": _thumbnail_features,
}
