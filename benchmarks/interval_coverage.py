"""Measures how often 95 % intervals contain the truth, on simulated test sets with known truth.

Run: python benchmarks/interval_coverage.py [--simulations 1000] [--groups 20 50 100]

Each simulation draws patients with one image (single) or 1 to 6 similar images (grouped), half of the patients of each
class, and computes the intervals of reslink. 1,000 simulations give a coverage of 0.95 to within ± 0.014.
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
from reslink.metrics.classification import classification_metrics
from reslink.metrics.decision_curve import decision_curve
from reslink.metrics.differences import Predictions, metric_differences
from reslink.metrics.likelihood_ratios import likelihood_ratios
from reslink.metrics.selective import aurc_estimate

Floats: TypeAlias = NDArray[np.float64]
Simulation: TypeAlias = tuple[NDArray[np.bool_], Floats, Floats, list[str]]
"""Truth, log-odds of a model and of a worse second model, and the patient of each image."""
Row: TypeAlias = tuple[float | None, float | None, float | None]
"""Estimate, lower and upper end."""

GAP, SHARED = 1.8, 0.6
"""Distance of the classes in standard deviations, and share of the variance that the images of a patient have in common."""
METRICS = ("accuracy", "sensitivity", "specificity", "ppv", "npv", "balanced_accuracy", "f1", "mcc", "auroc", "auprc", "brier")


def simulate(rng: np.random.Generator, n_groups: int, grouped: bool) -> Simulation:
    """Draws one simulation."""
    sizes = rng.integers(1, 7, n_groups) if grouped else np.ones(n_groups, int)
    groups = np.repeat(np.arange(n_groups), sizes)
    truth = (rng.permutation(n_groups) < n_groups // 2)[groups]

    def noise() -> Floats:
        single, common = rng.normal(size=len(groups)), rng.normal(size=n_groups)[groups]
        return np.sqrt(SHARED) * common + np.sqrt(1 - SHARED) * single if grouped else common

    score = GAP * truth + noise() - GAP / 2
    second = score + 0.7 * noise()
    return truth, GAP * score, GAP * second, groups.astype(str).tolist()


def both(log_odds: Floats) -> Floats:
    """Returns (n, 2) probabilities."""
    return np.stack([expit(-log_odds), expit(log_odds)], axis=1)


def intervals_of(drawn: Simulation, draws: int, seed: int) -> dict[str, Row]:
    """Returns estimate and interval of each metric."""
    truth, first, second, groups = drawn
    answers = [Predictions(both(x), (x >= 0).astype(int)) for x in (first, second)]
    y_true = truth.astype(int)
    metrics, _ = classification_metrics(y_true, answers[0].y_prob, answers[0].y_pred, groups, ["a", "b"], seed, draws)
    estimates = {name: metrics[name] for name in METRICS}
    differences = metric_differences(y_true, answers[0], answers[1], groups, ["a", "b"], seed, draws)
    estimates |= {f"difference {name}": differences[name] for name in ("accuracy", "sensitivity", "auroc", "brier")}
    estimates |= likelihood_ratios(truth, first >= 0, groups)
    sure = answers[0].y_prob.max(axis=1)
    estimates["aurc"] = aurc_estimate((first >= 0) != truth, sure, groups, seed, draws)
    table = {name: (e.estimate, e.ci_low, e.ci_high) for name, e in estimates.items()}
    fit = calibration_estimates(truth, answers[0].y_prob[:, 1], groups, seed, draws)
    table |= {name: (fit[name]["estimate"], fit[name]["ci_low"], fit[name]["ci_high"]) for name in ("slope", "intercept")}
    row = decision_curve(truth, answers[0].y_prob[:, 1], groups, [0.3], seed, draws)[0]
    table["net benefit at 0.3"] = (row["net_benefit"], row["ci_low"], row["ci_high"])
    return table


def truths(grouped: bool) -> dict[str, float]:
    """Returns the metrics of 40,000 patients, averaged over 5 simulations; those with a closed form are checked."""
    values_of: defaultdict[str, list[float]] = defaultdict(list)
    for seed in range(5):
        drawn = simulate(np.random.default_rng(10_000 + seed), 40_000, grouped)
        with mock.patch.object(intervals, "MAX_BLOCKS", 2):  # intervals are not needed here
            for name, (value, _, _) in intervals_of(drawn, draws=2, seed=0).items():
                assert value is not None, f"{name} of 40,000 patients"
                values_of[name].append(value)
    means = {name: float(np.mean(values)) for name, values in values_of.items()}
    assert abs(means["auroc"] - norm.cdf(GAP / np.sqrt(2))) < 0.002
    assert abs(means["accuracy"] - norm.cdf(GAP / 2)) < 0.002
    return means


def _one(job: tuple[int, int, bool, int]) -> dict[str, Row]:
    seed, n_groups, grouped, draws = job
    return intervals_of(simulate(np.random.default_rng(seed), n_groups, grouped), draws=draws, seed=seed)


def coverage(
    n_groups: int, grouped: bool, simulations: int, draws: int, expected: dict[str, float], jobs: int
) -> dict[str, dict[str, float]]:
    """Returns for each metric the share of intervals that contain the truth, are below or above it, and the number missing."""
    seen: defaultdict[str, list[tuple[float | None, float | None]]] = defaultdict(list)
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        work = [(seed, n_groups, grouped, draws) for seed in range(simulations)]
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
    """Prints one JSON line per metric and setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=1000, help="simulated test sets per setting")
    parser.add_argument("--groups", type=int, nargs="+", default=[20, 50, 100, 200], help="numbers of patients")
    parser.add_argument("--draws", type=int, default=1000, help="bootstrap draws")
    parser.add_argument("--jobs", type=int, default=1, help="worker processes")
    given = parser.parse_args()
    for grouped in (False, True):
        expected = truths(grouped)
        for n_groups in given.groups:
            results = coverage(n_groups, grouped, given.simulations, given.draws, expected, given.jobs)
            for name, row in results.items():
                print(
                    json.dumps({"grouped": grouped, "groups": n_groups, "metric": name, "truth": expected[name], **row}),
                    flush=True,
                )


if __name__ == "__main__":
    main()
