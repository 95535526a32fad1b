"""How often 95 % intervals hold the truth: simulated studies whose truth is known.

Run: python benchmarks/coverage.py [--studies 1000] [--groups 20 50 100]
Each study draws patients with one image (single) or 1 to 6 images that resemble each other (grouped), half of the patients
of each class, and asks reslink for its intervals. 1,000 studies know a coverage of 0.95 to within ± 0.014.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections import defaultdict
from typing import TypeAlias
from unittest import mock

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import norm

from reslink.metrics import intervals
from reslink.metrics.calibration_estimates import calibration_estimates
from reslink.metrics.classification import estimates
from reslink.metrics.decision_curve import decision_curve
from reslink.metrics.differences import Answers, differences
from reslink.metrics.likelihood_ratios import likelihood_ratios
from reslink.metrics.selective import aurc_estimate

Floats: TypeAlias = NDArray[np.float64]
Study: TypeAlias = tuple[NDArray[np.bool_], Floats, Floats, list[str]]
"""Truth, log-odds of a model and of a second, worse one, and the patient of each image."""
Row: TypeAlias = tuple[float | None, float | None, float | None]
"""Estimate, low and high."""

GAP, SHARED = 1.8, 0.6
"""Distance of the two classes in standard deviations, and share of the variance that the images of a patient have in common."""
FIGURES = ("accuracy", "sensitivity", "specificity", "ppv", "npv", "balanced_accuracy", "f1", "mcc", "auroc", "auprc", "brier")


def study(rng: np.random.Generator, n_groups: int, grouped: bool) -> Study:
    """Draws one study."""
    sizes = rng.integers(1, 7, n_groups) if grouped else np.ones(n_groups, int)
    groups = np.repeat(np.arange(n_groups), sizes)
    truth = (rng.permutation(n_groups) < n_groups // 2)[groups]

    def noise() -> Floats:
        own, common = rng.normal(size=len(groups)), rng.normal(size=n_groups)[groups]
        return np.sqrt(SHARED) * common + np.sqrt(1 - SHARED) * own if grouped else common

    score = GAP * truth + noise() - GAP / 2
    second = score + 0.7 * noise()
    return truth, GAP * score, GAP * second, groups.astype(str).tolist()


def both(log_odds: Floats) -> Floats:
    """Returns the (n, 2) probabilities."""
    return np.stack([expit(-log_odds), expit(log_odds)], axis=1)


def measured(drawn: Study, draws: int, seed: int) -> dict[str, Row]:
    """Returns estimate, low and high of each figure."""
    truth, first, second, groups = drawn
    answers = [Answers(both(x), (x >= 0).astype(int)) for x in (first, second)]
    y_true = truth.astype(int)
    metrics, _ = estimates(y_true, answers[0].y_prob, answers[0].y_pred, groups, ["a", "b"], seed, draws)
    found = {name: metrics[name] for name in FIGURES}
    gaps = differences(y_true, answers[0], answers[1], groups, ["a", "b"], seed, draws)
    found |= {f"difference {name}": gaps[name] for name in ("accuracy", "sensitivity", "auroc", "brier")}
    found |= likelihood_ratios(truth, first >= 0, groups)
    sure = answers[0].y_prob.max(axis=1)
    found["aurc"] = aurc_estimate((first >= 0) != truth, sure, groups, seed, draws)
    table = {name: (e.estimate, e.ci_low, e.ci_high) for name, e in found.items()}
    fit = calibration_estimates(truth, answers[0].y_prob[:, 1], groups, seed, draws)
    table |= {name: (fit[name]["estimate"], fit[name]["ci_low"], fit[name]["ci_high"]) for name in ("slope", "intercept")}
    row = decision_curve(truth, answers[0].y_prob[:, 1], groups, [0.3], seed, draws)[0]
    table["net benefit at 0.3"] = (row["net_benefit"], row["ci_low"], row["ci_high"])
    return table


def truths(grouped: bool) -> dict[str, float]:
    """Returns the figures of a study of 40,000 patients, averaged over 5; some are known in closed form and are checked."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    for seed in range(5):
        drawn = study(np.random.default_rng(10_000 + seed), 40_000, grouped)
        with mock.patch.object(intervals, "MAX_BLOCKS", 2):  # no interval is wanted here
            for name, (value, _, _) in measured(drawn, draws=2, seed=0).items():
                assert value is not None, f"{name} of 40,000 patients"
                found[name].append(value)
    means = {name: float(np.mean(values)) for name, values in found.items()}
    assert abs(means["auroc"] - norm.cdf(GAP / np.sqrt(2))) < 0.002
    assert abs(means["accuracy"] - norm.cdf(GAP / 2)) < 0.002
    return means


def _one(job: tuple[int, int, bool, int]) -> dict[str, Row]:
    seed, n_groups, grouped, draws = job
    return measured(study(np.random.default_rng(seed), n_groups, grouped), draws=draws, seed=seed)


def coverage(
    n_groups: int, grouped: bool, studies: int, draws: int, expected: dict[str, float], jobs: int
) -> dict[str, dict[str, float]]:
    """Returns, by figure, the share of intervals that hold the truth, those that lie below and above it, and those missing."""
    seen: defaultdict[str, list[tuple[float | None, float | None]]] = defaultdict(list)
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        work = [(seed, n_groups, grouped, draws) for seed in range(studies)]
        for table in pool.imap_unordered(_one, work, chunksize=10):
            for name, (_, low, high) in table.items():
                seen[name].append((np.nan, np.nan) if low is None else (low, high))
    result = {}
    for name, ends in seen.items():
        low, high = np.array(ends, dtype=float).T
        there = ~np.isnan(low)
        truth = expected[name]
        low, high = low[there], high[there]
        result[name] = {
            "covers": float(((low <= truth) & (truth <= high)).mean()),
            "too_low": float((high < truth).mean()),
            "too_high": float((low > truth).mean()),
            "width": float(np.median(high - low)),
            "without": int((~there).sum()),
        }
    return result


def main() -> None:
    """Prints a line a figure and setting, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--groups", type=int, nargs="+", default=[20, 50, 100, 200])
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    for grouped in (False, True):
        expected = truths(grouped)
        for n_groups in given.groups:
            found = coverage(n_groups, grouped, given.studies, given.draws, expected, given.jobs)
            for name, row in found.items():
                print(
                    json.dumps({"grouped": grouped, "groups": n_groups, "figure": name, "truth": expected[name], **row}),
                    flush=True,
                )


if __name__ == "__main__":
    main()
