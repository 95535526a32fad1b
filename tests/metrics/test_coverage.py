"""Intervals hold the truth about as often as they say; benchmarks/coverage.py asks the same of more figures and sizes."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from reslink.metrics import weighted
from reslink.metrics.intervals import GroupBootstrap, bootstrap_interval, mean_interval, wilson

STUDIES, PATIENTS, GAP = 300, 60, 1.8


def study(rng):
    """60 patients with 1 to 4 images each; the images of a patient have 60 % of their variance in common."""
    groups = np.repeat(np.arange(PATIENTS), rng.integers(1, 5, PATIENTS))
    truth = (np.arange(PATIENTS) % 2 == 0)[groups]
    noise = np.sqrt(0.6) * rng.normal(size=PATIENTS)[groups] + np.sqrt(0.4) * rng.normal(size=len(groups))
    return truth, GAP * truth + noise - GAP / 2, groups.astype(str)


def test_intervals_over_patients_hold_the_truth(rng):
    truths = {"accuracy": norm.cdf(GAP / 2), "auroc": norm.cdf(GAP / np.sqrt(2))}
    held = {name: [] for name in truths}
    for seed in range(STUDIES):
        truth, score, groups = study(rng)
        bootstrap = GroupBootstrap(groups, 400, seed)
        drawn = bootstrap.apply(lambda weights, t=truth, s=score: {"auroc": weighted.auroc(weights, t, s)})
        area = float(roc_auc_score(truth, score))
        found = {
            "accuracy": mean_interval((score >= 0) == truth, groups, seed, draws=400),
            "auroc": bootstrap_interval(area, drawn["auroc"], len(truth), PATIENTS, rests_on=PATIENTS // 2),
        }
        for name, value in found.items():
            held[name].append(value.ci_low <= truths[name] <= value.ci_high)
    shares = {name: float(np.mean(values)) for name, values in held.items()}
    assert min(shares.values()) > 0.93 - 1.64 * np.sqrt(0.95 * 0.05 / STUDIES), shares
    assert max(shares.values()) < 0.97 + 1.64 * np.sqrt(0.95 * 0.05 / STUDIES), shares


@pytest.mark.parametrize(("n", "share"), [(30, 0.8), (60, 0.9), (200, 0.95), (500, 0.97)])
def test_wilson_holds_the_truth(rng, n, share):
    counts, times = np.unique(rng.binomial(n, share, 20_000), return_counts=True)
    held = [(found := wilson(int(k), n)).ci_low <= share <= found.ci_high for k in counts]
    assert 0.93 <= np.dot(held, times) / 20_000 <= 0.97
