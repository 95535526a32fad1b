"""Figures of the cases that a bundle answers, beside those of all cases, so that nobody gains accuracy by abstaining."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from reslink.bundles.decision.decision import Verdicts
from reslink.labels import Labels
from reslink.metrics.classification import estimates
from reslink.metrics.conformal import covered
from reslink.metrics.intervals import mean_interval
from reslink.metrics.selective import selective_summary

Ints: TypeAlias = NDArray[np.int64]

NOTHING_FITTED = "The bundle has neither prediction sets nor a gate: it answers every case. Fit them with reslink calibrate"


def selective(y_true: Ints, verdicts: Verdicts | None, groups: Sequence[str], labels: Labels, seed: int = 0) -> dict[str, Any]:
    """Returns what abstaining does: coverage, figures of the covered cases, prediction sets, risk–coverage curve.

    Args:
        y_true: (n,) class indices.
        verdicts: What the decision says about the n cases.
        groups: (n,) the patient or twin group of each case.
        labels: The K classes.
        seed: Seed of the bootstrap.

    Returns:
        ``coverage`` (share of cases answered, with interval), ``n_covered``, ``n_abstained``, ``reasons`` (cases by
        reason), ``metrics`` (of the covered cases alone; empty where there is none), ``sets`` (see :func:`set_figures`; null
        where none were fitted),
        ``n_refused`` (by the gate; null where none was fitted), ``risk_coverage`` (of all cases by the probability of the
        predicted class: ``aurc``, ``curve``, ``n``) and ``note``.
    """
    if verdicts is None:
        return {}
    abstain = np.zeros(len(y_true), np.bool_) if verdicts.abstain is None else verdicts.abstain
    kept = np.flatnonzero(~abstain)
    sureness = np.take_along_axis(verdicts.probabilities, verdicts.predicted[:, None], axis=1)[:, 0]
    return {
        "coverage": mean_interval(~abstain, groups, seed).as_dict(),
        "n_covered": len(kept),
        "n_abstained": int(abstain.sum()),
        "reasons": dict(Counter(reason for reasons in verdicts.reasons for reason in reasons)),
        "metrics": _metrics(y_true, verdicts, groups, labels, kept, seed),
        "sets": None if verdicts.sets is None else set_figures(y_true, verdicts.sets, groups, labels, seed),
        "n_refused": None if verdicts.ood_score is None else int((verdicts.ood_score > 1).sum()),
        "risk_coverage": selective_summary(verdicts.predicted != y_true, sureness, groups, seed),
        "note": NOTHING_FITTED if verdicts.abstain is None else _note(len(kept)),
    }


def _note(n_covered: int) -> str:
    return "The figures under metrics are of the covered cases alone" if n_covered else "Every case was abstained from"


def _metrics(
    y_true: Ints, verdicts: Verdicts, groups: Sequence[str], labels: Labels, kept: NDArray[np.intp], seed: int
) -> dict[str, Any]:
    if not len(kept):
        return {}
    parts = (y_true[kept], verdicts.probabilities[kept], verdicts.predicted[kept], [groups[row] for row in kept])
    return {name: estimate.as_dict() for name, estimate in estimates(*parts, labels.names, seed)[0].items()}


def set_figures(y_true: Ints, sets: NDArray[np.bool_], groups: Sequence[str], labels: Labels, seed: int = 0) -> dict[str, Any]:
    """Returns what is to be known of prediction sets.

    Args:
        y_true: (n,) class indices.
        sets: (n, K) whether each class belongs to the set of each case.
        groups: (n,) the patient or twin group of each case.
        labels: The K classes.
        seed: Seed of the bootstrap.

    Returns:
        ``coverage``, ``coverage_by_class`` (by name) and ``mean_size``, each an estimate with its 95 % interval;
        ``n_empty``, ``n_single`` and ``n_several``.
    """
    held, size = covered(sets, y_true), sets.sum(axis=1)
    by_class = {}
    for k, name in enumerate(labels.names):
        rows = np.flatnonzero(y_true == k)
        by_class[name] = mean_interval(held[rows], [groups[row] for row in rows.tolist()], seed).as_dict()
    return {
        "coverage": mean_interval(held, groups, seed).as_dict(),
        "coverage_by_class": by_class,
        "mean_size": mean_interval(size, groups, seed, proportion=False).as_dict(),
        "n_empty": int((size == 0).sum()),
        "n_single": int((size == 1).sum()),
        "n_several": int((size > 1).sum()),
    }
