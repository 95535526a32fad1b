"""Tests of whether two classifiers differ on the same cases: DeLong, McNemar, and Holm's correction for several tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest, norm

from reslink.errors import InputError
from reslink.metrics.delong import delong, macro_areas
from reslink.metrics.differences import Answers as Answers  # the differences belong to a comparison too
from reslink.metrics.differences import differences as differences
from reslink.metrics.intervals import (
    MIN_GROUPS,
    Estimate,
    GroupBootstrap,
    bootstrap_interval,
    few_groups,
    undefined,
    without_interval,
)
from reslink.metrics.paired_proportions import paired_difference

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class PairedTest:
    """A two-sided test of whether two classifiers differ in a figure.

    Attributes:
        name: ``DeLong`` or ``McNemar``.
        difference: The figure of the first less that of the second; None where it is not defined.
        p_value: 0 to 1; None where there is no test, with the reason in ``method``.
        method: What was computed, or why there is no test.
        n: Cases that the test rests on.
        p_holm: The p-value after Holm's correction, where several tests were made.
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


def delong_test(
    positive: ArrayLike, scores_a: ArrayLike, scores_b: ArrayLike, groups: Sequence[str] | None = None
) -> PairedTest:
    """Returns the test of whether two classifiers have the same AUROC; see :func:`reslink.metrics.delong.delong`.

    Args:
        positive: (n,) whether a case is of the positive class; or class indices where the scores are of K > 2 classes.
        scores_a: (n,) scores of the first, or (n, K), whose mean AUROC of each class against the rest is tested.
        scores_b: Those of the second.
        groups: (n,) the patient or twin group of each case; None takes all cases for independent.

    Returns:
        The test; without a p-value where fewer than ``MIN_GROUPS`` groups hold a class or its counterpart, or where the
        difference has no variance.

    Raises:
        InputError: If the shapes do not fit.
    """
    scores = np.stack([np.asarray(scores_a, dtype=np.float64), np.asarray(scores_b, dtype=np.float64)])
    several = scores.ndim == 3
    truth = np.asarray(positive, dtype=np.int64 if several else bool)
    names = np.arange(len(truth)).astype(str) if groups is None else np.asarray(groups, dtype=str)
    sides = [truth == k for k in range(scores.shape[2])] if several else [truth]
    fewest = min(len(np.unique(names[side == held])) for side in sides for held in (True, False))
    if fewest < 2:
        return PairedTest("DeLong", None, None, "no test: it needs cases of every class", len(truth))
    found = macro_areas(truth, scores, list(names)) if several else delong(truth, scores, list(names))
    gap = float(found.areas[0] - found.areas[1])
    variance = float(found.covariance[0, 0] + found.covariance[1, 1] - 2 * found.covariance[0, 1])
    if fewest < MIN_GROUPS:
        few = f"no test: a class or its counterpart rests on {fewest} groups, fewer than {MIN_GROUPS}"
        return PairedTest("DeLong", gap, None, few, len(truth))
    if variance < 1e-18:
        return PairedTest("DeLong", gap, *_no_spread(gap), len(truth))
    return PairedTest("DeLong", gap, float(2 * norm.sf(abs(gap) / np.sqrt(variance))), _kind(names, several), len(truth))


def _kind(names: NDArray[np.str_], several: bool) -> str:
    """Returns how the variance came about."""
    total = len(np.unique(names))
    if several:
        return f"DeLong's components, mean AUROC of each class against the rest, variance over {total} groups"
    return "DeLong" if total == len(names) else f"DeLong, variance over {total} groups (Obuchowski)"


def _no_spread(gap: float) -> tuple[float | None, str]:
    if abs(gap) < 1e-12:
        return 1.0, "DeLong: the two rank all pairs of a positive and a negative case alike"
    return None, "no test: the difference has no variance on these cases"


def mcnemar(right_a: ArrayLike, right_b: ArrayLike, groups: Sequence[str] | None = None) -> PairedTest:
    """Returns the exact test of whether two classifiers are right equally often (McNemar 1947).

    On independent cases this is the binomial test of the cases that only one of the two gets right. Where groups hold
    several cases, whole groups change sides: of all 2^G ways to swap the two classifiers within groups, the p-value is
    the share with a difference at least as large. With one case in each group that is the same test. All ways are
    counted, by adding up one group after the other, not drawn.

    Args:
        right_a: (n,) whether the first is right.
        right_b: (n,) whether the second is right.
        groups: (n,) the patient or twin group of each case; None takes all cases for independent.

    Raises:
        InputError: If the shapes do not fit, or there is no case.
    """
    first, second = np.asarray(right_a, dtype=bool), np.asarray(right_b, dtype=bool)
    if first.shape != second.shape or first.ndim != 1 or not first.size or (groups is not None and len(groups) != first.size):
        raise InputError(
            f"Answers of shape {first.shape} and {second.shape} cannot be compared",
            "McNemar's test takes the same n > 0 cases of both, and a group for each",
            "Judge both on the same cases",
        )
    gaps = first.astype(np.int64) - second
    only_a, only_b = int((gaps > 0).sum()), int((gaps < 0).sum())
    said = f"only the first right: {only_a}, only the second: {only_b}"
    names = None if groups is None else np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]
    if names is None or len(np.unique(names)) == len(gaps):
        p_value = 1.0 if only_a + only_b == 0 else float(binomtest(only_a, only_a + only_b).pvalue)
        return PairedTest("McNemar", float(gaps.mean()), p_value, f"exact McNemar; {said}", len(gaps))
    swings = np.bincount(names, weights=gaps).astype(np.int64)
    method = f"exact McNemar with whole groups exchanged, {len(swings)} groups; {said}"
    return PairedTest("McNemar", float(gaps.mean()), _sign_flips(swings), method, len(gaps))


def _sign_flips(swings: Ints) -> float:
    """Returns the share of sign changes of integers whose sum is at least as far from 0 as that of the integers."""
    steps = np.abs(swings[swings != 0])
    chance = np.ones(1)  # chance[k]: probability that the sum is k − reach
    for step in steps:
        longer = np.zeros(len(chance) + 2 * step)
        longer[: len(chance)] += chance / 2
        longer[2 * step :] += chance / 2
        chance = longer
    reach = int(steps.sum())
    far = np.abs(np.arange(-reach, reach + 1)) >= abs(int(swings.sum()))
    return float(min(1.0, chance[far].sum()))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Returns p-values corrected for their number (Holm 1979, Scandinavian Journal of Statistics 6:65).

    Args:
        p_values: Each 0 to 1; None, a test that could not be made, stays None and does not count.
    """
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, i) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - rank)))
        corrected[i] = highest
    return corrected


def mean_difference(
    values_a: ArrayLike, values_b: ArrayLike, groups: Sequence[str], seed: int = 0, draws: int = 1000
) -> Estimate:
    """Returns the mean of a figure that each case has, of one classifier less another, with its interval over groups.

    Args:
        values_a: (n,) the figure of the first, such as 1 for a right answer; finite, 0 to 1.
        values_b: (n,) the figure of the second on the same cases.
        groups: (n,) the patient or twin group of each case.
        seed: Seed of the draws.
        draws: Bootstrap draws.
    """
    gaps = np.asarray(values_a, dtype=np.float64) - np.asarray(values_b, dtype=np.float64)
    if not gaps.size:
        return undefined("there is no case to count", 0)
    bootstrap, mean = GroupBootstrap(groups, draws, seed), float(gaps.mean())
    if bootstrap.n_groups < MIN_GROUPS:
        return without_interval(mean, few_groups(bootstrap.n_groups), len(gaps))
    if np.isin(gaps, (-1.0, 0.0, 1.0)).all():
        return paired_difference(gaps, bootstrap.index)
    drawn = bootstrap.apply(lambda weights: {"mean": weights @ gaps / weights.sum(axis=1)})
    return bootstrap_interval(mean, drawn["mean"], len(gaps), bootstrap.n_groups, limits=(-1.0, 1.0))
