"""Probes that see no brain: how well the class can be told from what should say nothing about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction import DictVectorizer

from reslink.audit.cross_validation import Floats, Ints, balanced_accuracy, fewest_groups, out_of_fold
from reslink.audit.extract import Measured
from reslink.audit.features.header import Header
from reslink.audit.features.outside_head import FEATURES
from reslink.metrics.comparison import holm
from reslink.metrics.intervals import MIN_GROUPS, Estimate

ProbeName = Literal["file_facts", "outside_head", "histogram", "thumbnail"]
GATES: Final[tuple[ProbeName, ...]] = ("file_facts", "outside_head")
"""Probes that see nothing of the brain; the histogram and the thumbnail of the whole picture see it, and only inform."""

MARGIN: Final = 0.05
"""A gate probe fails where its interval lies above chance by more than this."""

LEVEL: Final = 0.025
"""One-sided, as the lower end of a 95 % interval."""

TREES: Final = 100


@dataclass(frozen=True)
class Shortcut:
    """What one probe reached.

    Attributes:
        probe: Its name.
        balanced_accuracy: Mean of the classes' sensitivities, out of fold, with its interval over groups.
        chance: 1 / number of classes.
        p_value: One-sided, against chance + 0.05 for a gate probe and against chance for the others; None without interval.
        p_holm: The same after Holm's correction over the probes.
        told_by: The features that the probe leaned on most, the first most.
        rows: (m,) indices of the cases that the probe could look at.
        y_prob: (m, K) out-of-fold probabilities.
    """

    probe: ProbeName
    balanced_accuracy: Estimate
    chance: float
    p_value: float | None
    told_by: tuple[str, ...]
    rows: Ints
    y_prob: Floats
    p_holm: float | None = None

    @property
    def gate(self) -> bool:
        """Whether the verdict depends on this probe."""
        return self.probe in GATES

    @property
    def above_chance(self) -> bool:
        """Whether the 95 % interval lies above chance."""
        low = self.balanced_accuracy.ci_low
        return low is not None and low > self.chance

    @property
    def failed(self) -> bool:
        """Whether a gate probe lies above chance + 0.05, by its own interval and after Holm's correction."""
        low = self.balanced_accuracy.ci_low
        clear = low is not None and low > self.chance + MARGIN
        return self.gate and clear and self.p_holm is not None and self.p_holm <= LEVEL

    def as_dict(self) -> dict[str, Any]:
        """Returns the JSON form."""
        return {
            "probe": self.probe,
            "balanced_accuracy": self.balanced_accuracy.as_dict(),
            "chance": self.chance,
            "above_chance": self.above_chance,
            "gate": self.gate,
            "failed": self.failed,
            "p_value": self.p_value,
            "p_holm": self.p_holm,
            "told_by": list(self.told_by),
        }


def probe_all(
    items: Sequence[Measured], targets: Ints, groups: Sequence[str], num_classes: int, seed: int = 0
) -> Iterator[Shortcut | tuple[ProbeName, str]]:
    """Runs the four probes, one after the other.

    Each probe is a random forest (Breiman 2001) with balanced class weights, judged out of fold: ``StratifiedGroupKFold``
    over the groups, so that no twin and no patient is on both sides.

    Args:
        items: What was measured of each case.
        targets: (n,) class indices.
        groups: The group of each case: patient, near copies, or both joined.
        num_classes: K.
        seed: Of folds, forests and bootstrap.

    Yields:
        What each probe reached, or its name and the reason why it could not be run; without Holm's correction, see
        :func:`corrected`.
    """
    names = np.asarray(groups, dtype=str)
    for probe, inputs in _INPUTS.items():
        rows = np.array([i for i, item in enumerate(items) if probe != "outside_head" or item.outside is not None], np.int64)
        reason = _too_few(targets[rows], names[rows], num_classes)
        if reason:
            yield probe, reason
            continue
        features, said = inputs([items[i] for i in rows])
        yield _run(probe, features, said, rows, targets[rows], names[rows], num_classes, seed)


def corrected(found: Sequence[Shortcut]) -> list[Shortcut]:
    """Returns the probes with Holm's correction over all of them (Holm 1979)."""
    return [replace(probe, p_holm=p) for probe, p in zip(found, holm([probe.p_value for probe in found]), strict=True)]


def _too_few(targets: Ints, groups: NDArray[np.str_], num_classes: int) -> str:
    fewest, count = fewest_groups(targets, groups, num_classes), len(np.unique(groups))
    if fewest < 2:
        return f"a class has {fewest} independent groups of images that can be looked at, and cross-validation needs 2"
    if count < MIN_GROUPS:
        return f"there are {count} independent groups of images, and fewer than {MIN_GROUPS} give no interval"
    return ""


def _run(
    probe: ProbeName,
    features: Any,
    said: Sequence[str],
    rows: Ints,
    targets: Ints,
    groups: NDArray[np.str_],
    num_classes: int,
    seed: int,
) -> Shortcut:
    def forest() -> RandomForestClassifier:
        return RandomForestClassifier(
            TREES, min_samples_leaf=2, max_features="sqrt", class_weight="balanced_subsample", random_state=seed
        )

    chance = 1 / num_classes
    if not said:
        even = np.full((len(rows), num_classes), chance)
        same = Estimate(chance, chance, chance, "every image has the same facts, which tell nothing", len(rows))
        return Shortcut(probe, same, chance, 1.0, (), rows, even)
    y_prob = out_of_fold(features, targets, groups, num_classes, forest, seed)
    limit = chance + MARGIN if probe in GATES else chance
    estimate, p_value = balanced_accuracy(targets, y_prob.argmax(axis=1), groups, num_classes, limit, seed)
    best = _told_by(forest().fit(features, targets), said)
    return Shortcut(probe, estimate, chance, p_value, best, rows, y_prob)


def _told_by(forest: RandomForestClassifier, said: Sequence[str]) -> tuple[str, ...]:
    """The features with the largest impurity-based importance; none where no tree has found anything to split by."""
    with np.errstate(invalid="ignore"):
        weights = np.nan_to_num(forest.feature_importances_)
    best = [said[i] for i in np.argsort(-weights, kind="stable") if weights[i] > 0]
    return tuple(dict.fromkeys(best))[:5]


def _header_features(items: Sequence[Measured]) -> tuple[Any, list[str]]:
    """Texts become one column a category; what all files have alike is left out."""
    headers: list[Header] = [item.header for item in items]
    turner = DictVectorizer(dtype=np.float32, sparse=False)
    matrix = turner.fit_transform(headers)
    varied = np.flatnonzero(np.ptp(matrix, axis=0) > 0)
    # A category that one file alone has can tell nothing of another file, and there may be thousands.
    known = [i for i in varied if "=" not in turner.feature_names_[i] or int((matrix[:, i] > 0).sum()) > 1]
    return matrix[:, known], [turner.feature_names_[i].split("=")[0] for i in known]


def _outside_features(items: Sequence[Measured]) -> tuple[Any, list[str]]:
    matrix = np.stack([item.outside for item in items if item.outside is not None])
    return matrix, list(FEATURES) if np.ptp(matrix, axis=0).any() else []


def _histograms(items: Sequence[Measured]) -> tuple[Any, list[str]]:
    matrix = np.stack([item.histogram for item in items])
    return matrix, [f"grey level {i + 1} of {matrix.shape[1]}" for i in range(matrix.shape[1])]


def _thumbnails(items: Sequence[Measured]) -> tuple[Any, list[str]]:
    matrix = np.stack([item.tiny.reshape(-1) for item in items])
    side = items[0].tiny.shape[0]
    return matrix, [f"pixel in row {i // side + 1}, column {i % side + 1} of {side}" for i in range(matrix.shape[1])]


_INPUTS: Final[dict[ProbeName, Callable[[Sequence[Measured]], tuple[Any, list[str]]]]] = {
    "file_facts": _header_features,
    "outside_head": _outside_features,
    "histogram": _histograms,
    "thumbnail": _thumbnails,
}
