"""Metrics of several labels at once: each label is a two-class question of its own; macro averages are over the labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from reslink.metrics.classification import METRIC_NAMES, PointMetrics, point_metrics, weighted_metrics
from reslink.metrics.intervals import (
    MIN_GROUPS,
    Estimate,
    GroupBootstrap,
    bootstrap_interval,
    too_few_groups,
    undefined,
    without_interval,
)
from reslink.metrics.several_labels.states import known_rows, two_columns

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]


def macro_metrics(
    states: Ints,
    probabilities: Floats,
    predicted: Ints,
    groups: Sequence[str],
    names: Sequence[str],
    seed: int = 0,
    draws: int = 1000,
) -> dict[str, Estimate]:
    """Returns the mean over the labels of every metric, with a 95 % bootstrap interval over groups.

    Labels that are present in no case, or in every case, have no AUROC; they are left out of all means, and ``method`` names
    them. One draw of groups gives the metrics of all labels, so that the interval includes their dependence. There is no
    interval if a label is present, or absent, in fewer than ``MIN_GROUPS`` groups.

    Args:
        states: (n, K) 1 present, 0 absent, -1 unknown.
        probabilities: (n, K) probability that each label is present.
        predicted: (n, K) 1 or 0.
        groups: (n,) patient or duplicate group of each case.
        names: The K labels.
        seed: Seed of the draws.
        draws: Number of draws.

    Returns:
        An estimate for each key of ``METRIC_NAMES``; ``n`` is the number of cases.
    """
    rows = known_rows(states)
    used = [k for k in range(len(names)) if len(np.unique(states[rows[k], k])) == 2]
    left_out = [name for k, name in enumerate(names) if k not in used]
    n = len(states)
    if not used:
        return dict.fromkeys(METRIC_NAMES, undefined("no label is present in some cases and absent in others", n))

    def of_label(k: int) -> tuple[Ints, Floats, Ints]:
        return states[rows[k], k], two_columns(probabilities[rows[k], k]), predicted[rows[k], k]

    def means(weights: Floats) -> dict[str, Floats]:
        by_label = [weighted_metrics(weights[:, rows[k]], *of_label(k)) for k in used]
        return {name: np.mean([values[f"all {name}"] for values in by_label], axis=0) for name in METRIC_NAMES}

    bootstrap = GroupBootstrap(groups, draws, seed)
    points: list[PointMetrics] = [point_metrics(*of_label(k)) for k in used]
    min_groups = min(bootstrap.count_groups(states[:, k] == state) for k in used for state in (0, 1))
    drawn = bootstrap.apply(means) if min_groups >= MIN_GROUPS else {}
    scope = f"; without {', '.join(left_out)}, present in no case or in every case" if left_out else ""
    estimates = {}
    for name in METRIC_NAMES:
        values = [point[name] for point in points]
        lacking = [names[k] for k, value in zip(used, values, strict=True) if value is None]
        if lacking:
            estimates[name] = undefined(f"it is undefined for {', '.join(lacking)}", n)
            continue
        mean = float(np.mean([value for value in values if value is not None]))
        if not drawn:
            estimate = without_interval(mean, f"of a label, {too_few_groups(min_groups)}", n)
        else:
            limits = (-1.0, 1.0) if name == "mcc" else (0.0, 1.0)
            estimate = bootstrap_interval(
                mean, drawn[name], n, bootstrap.n_groups, biased=name == "ece", limits=limits, effective_groups=min_groups
            )
        estimates[name] = replace(estimate, method=f"mean over {len(used)} labels{scope}; {estimate.method}")
    return estimates
