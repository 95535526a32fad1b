"""Tests of whether two classifiers differ on the same cases: DeLong, McNemar, and Holm's correction for several tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest, norm

from reslink.errors import InputError
from reslink.metrics.delong import delong, delong_macro
from reslink.metrics.intervals import (
    MIN_GROUPS,
)

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class PairedTest:
    """A two-sided test of whether two classifiers differ in a metric.

    Attributes:
        name: ``DeLong`` or ``McNemar``.
        difference: The metric of the first minus that of the second; None where it is undefined.
        p_value: 0 to 1; None where there is no test, with the reason in ``method``.
        method: What was computed, or why there is no test.
        n: Number of cases behind the test.
        p_holm: The p-value after Holm's correction, if several tests were made.
    """

    name: str
    difference: float | None
    p_value: float | None
    method: str
    n: int
    p_holm: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Returns the JSON form."""
        return asdict(self)


def delong_test(y_true: ArrayLike, scores_a: ArrayLike, scores_b: ArrayLike, groups: Sequence[str] | None = None) -> PairedTest:
    """Returns the test of whether two classifiers have the same AUROC; see :func:`reslink.metrics.delong.delong`.

    Args:
        y_true: (n,) whether a case is positive; class indices if the scores are of K > 2 classes.
        scores_a: (n,) scores of the first; or (n, K), then the mean AUROC of each class against the rest is tested.
        scores_b: Scores of the second.
        groups: (n,) the patient or duplicate group of each case; None treats all cases as independent.

    Returns:
        The test; without a p-value where a class or its complement has fewer than ``MIN_GROUPS`` groups, or where the
        difference has no variance.

    Raises:
        InputError: If the shapes do not match.
    """
    scores = np.stack([np.asarray(scores_a, dtype=np.float64), np.asarray(scores_b, dtype=np.float64)])
    multiclass = scores.ndim == 3
    truth = np.asarray(y_true, dtype=np.int64 if multiclass else bool)
    names = np.arange(len(truth)).astype(str) if groups is None else np.asarray(groups, dtype=str)
    classes = [truth == k for k in range(scores.shape[2])] if multiclass else [truth]
    min_groups = min(len(np.unique(names[in_class == value])) for in_class in classes for value in (True, False))
    if min_groups < 2:
        return PairedTest("DeLong", None, None, "no test: it needs cases of every class", len(truth))
    areas = delong_macro(truth, scores, list(names)) if multiclass else delong(truth, scores, list(names))
    difference = float(areas.values[0] - areas.values[1])
    variance = float(areas.covariance[0, 0] + areas.covariance[1, 1] - 2 * areas.covariance[0, 1])
    if min_groups < MIN_GROUPS:
        reason = f"no test: a class or its complement has only {min_groups} groups, fewer than {MIN_GROUPS}"
        return PairedTest("DeLong", difference, None, reason, len(truth))
    if variance < 1e-18:
        return PairedTest("DeLong", difference, *_without_variance(difference), len(truth))
    p_value = float(2 * norm.sf(abs(difference) / np.sqrt(variance)))
    return PairedTest("DeLong", difference, p_value, _variance_method(names, multiclass), len(truth))


def _variance_method(names: NDArray[np.str_], multiclass: bool) -> str:
    n_groups = len(np.unique(names))
    if multiclass:
        return f"DeLong's components, mean AUROC of each class against the rest, variance over {n_groups} groups"
    return "DeLong" if n_groups == len(names) else f"DeLong, variance over {n_groups} groups (Obuchowski)"


def _without_variance(difference: float) -> tuple[float | None, str]:
    """Returns p-value and method where the difference has no variance."""
    if abs(difference) < 1e-12:
        return 1.0, "DeLong: both rank all pairs of a positive and a negative case in the same way"
    return None, "no test: the difference has no variance on these cases"


def mcnemar(correct_a: ArrayLike, correct_b: ArrayLike, groups: Sequence[str] | None = None) -> PairedTest:
    """Returns the exact test of whether two classifiers are correct equally often (McNemar 1947).

    On independent cases this is the binomial test of the cases that only one of the two predicts correctly. Where groups
    have several cases, whole groups are permuted: the p-value is the share of all 2^G ways to swap the two classifiers
    within groups whose difference is at least as large. With one case in each group this is the same test. The shares are
    exact, computed by adding one group at a time, not drawn at random.

    Args:
        correct_a: (n,) whether the first is correct.
        correct_b: (n,) whether the second is correct.
        groups: (n,) the patient or duplicate group of each case; None treats all cases as independent.

    Raises:
        InputError: If the shapes do not match, or the arrays are empty.
    """
    first, second = np.asarray(correct_a, dtype=bool), np.asarray(correct_b, dtype=bool)
    if first.shape != second.shape or first.ndim != 1 or not first.size or (groups is not None and len(groups) != first.size):
        raise InputError(
            f"Predictions of shape {first.shape} and {second.shape} cannot be compared",
            "McNemar's test needs the same n > 0 cases of both, and a group for each",
            "Evaluate both on the same cases",
        )
    differences = first.astype(np.int64) - second
    only_a, only_b = int((differences > 0).sum()), int((differences < 0).sum())
    counts = f"only the first correct: {only_a}, only the second: {only_b}"
    index = None if groups is None else np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]
    if index is None or len(np.unique(index)) == len(differences):
        p_value = 1.0 if only_a + only_b == 0 else float(binomtest(only_a, only_a + only_b).pvalue)
        return PairedTest("McNemar", float(differences.mean()), p_value, f"exact McNemar; {counts}", len(differences))
    group_sums = np.bincount(index, weights=differences).astype(np.int64)
    method = f"exact McNemar with whole groups exchanged, {len(group_sums)} groups; {counts}"
    return PairedTest("McNemar", float(differences.mean()), _sign_flip_p_value(group_sums), method, len(differences))


def _sign_flip_p_value(group_sums: Ints) -> float:
    """Returns the share of all sign flips whose sum is at least as far from 0 as the sum of the given integers."""
    sizes = np.abs(group_sums[group_sums != 0])
    probability = np.ones(1)  # probability[k] of the sum k − reach
    for size in sizes:
        longer = np.zeros(len(probability) + 2 * size)
        longer[: len(probability)] += probability / 2
        longer[2 * size :] += probability / 2
        probability = longer
    reach = int(sizes.sum())
    extreme = np.abs(np.arange(-reach, reach + 1)) >= abs(int(group_sums.sum()))
    return float(min(1.0, probability[extreme].sum()))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Returns p-values corrected for multiple testing (Holm 1979, Scandinavian Journal of Statistics 6:65).

    Args:
        p_values: Each 0 to 1. None, a test that could not be made, stays None and is not counted.
    """
    ordered = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, i) in enumerate(ordered):
        highest = max(highest, min(1.0, p * (len(ordered) - rank)))
        corrected[i] = highest
    return corrected
