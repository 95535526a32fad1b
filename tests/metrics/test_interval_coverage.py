"""Intervals hold the truth about as often as they say; benchmarks/coverage.py asks the same of more figures and sizes."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from reslink.metrics import weighted
from reslink.metrics.intervals import GroupBootstrap, bootstrap_interval, wilson

STUDIES, PATIENTS, GAP, DRAWS = 1000, 60, 1.8, 400
"""400 draws in place of 1,000: the ends of an interval, its 10th and 390th draw or so, are a little less even, which at most
lowers the share that is asked for; in return a thousand studies take about ten seconds."""


def study(rng):
    """60 patients with 1 to 4 images each; the images of a patient have 60 % of their variance in common."""
    groups = np.repeat(np.arange(PATIENTS), rng.integers(1, 5, PATIENTS))
    truth = (np.arange(PATIENTS) % 2 == 0)[groups]
    noise = np.sqrt(0.6) * rng.normal(size=PATIENTS)[groups] + np.sqrt(0.4) * rng.normal(size=len(groups))
    return truth, GAP * truth + noise - GAP / 2, groups.astype(str)


def figures(weights, truth, score):
    """Returns accuracy, sensitivity and AUROC of weighted samples."""
    right = ((score >= 0) == truth).astype(float)
    return {
        "accuracy": weighted.ratio(weights @ right, weights.sum(axis=1)),
        "sensitivity": weighted.ratio(weights @ (right * truth), weights @ truth),
        "auroc": weighted.auroc(weights, truth, score),
    }


@pytest.mark.slow
def test_intervals_over_patients_hold_the_truth(rng):
    """As `metrics.classification.estimates` makes them, from one bootstrap of the three figures."""
    truths = {"accuracy": norm.cdf(GAP / 2), "sensitivity": norm.cdf(GAP / 2), "auroc": norm.cdf(GAP / np.sqrt(2))}
    rests_on = {"accuracy": PATIENTS, "sensitivity": PATIENTS // 2, "auroc": PATIENTS // 2}
    held = {name: [] for name in truths}
    for seed in range(STUDIES):
        truth, score, groups = study(rng)
        drawn = GroupBootstrap(groups, DRAWS, seed).apply(lambda weights, t=truth, s=score: figures(weights, t, s))
        points = figures(np.ones((1, len(truth))), truth, score)
        if seed < 20:
            assert points["auroc"][0] == pytest.approx(roc_auc_score(truth, score))
        for name, expected in truths.items():
            value = bootstrap_interval(float(points[name][0]), drawn[name], len(truth), PATIENTS, rests_on=rests_on[name])
            held[name].append(value.ci_low <= expected <= value.ci_high)
    shares = {name: float(np.mean(values)) for name, values in held.items()}
    assert min(shares.values()) >= 0.93, shares
    assert max(shares.values()) <= 0.97, shares


@pytest.mark.parametrize(("n", "share"), [(30, 0.8), (60, 0.9), (200, 0.95), (500, 0.97)])
def test_wilson_holds_the_truth(rng, n, share):
    counts, times = np.unique(rng.binomial(n, share, 20_000), return_counts=True)
    held = [(found := wilson(int(k), n)).ci_low <= share <= found.ci_high for k in counts]
    assert 0.93 <= np.dot(held, times) / 20_000 <= 0.97
