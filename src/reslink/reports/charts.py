"""Charts of a run: learning curves, ROC, precision–recall, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from reslink.metrics.calibration import bin_index, calibration_curve
from reslink.metrics.several_labels.states import known_rows
from reslink.reports.svg import DASHED, SERIES, Chart, add_legend, color, literal, new_axes, render_chart

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
BINS = 10


def learning_curves(
    rows: Sequence[Mapping[str, object]], columns: Mapping[str, str], name: str, title: str, y_label: str
) -> Chart | None:
    """Draws columns over the epochs.

    Args:
        rows: One per epoch, with ``epoch`` and numbers; missing and non-finite values are skipped.
        columns: Label of the line by column.
        name: Short name of the chart.
        title: The caption.
        y_label: Label of the vertical axis.

    Returns:
        The chart, or None if no column has a value.
    """
    lines = {label: points for key, label in columns.items() if (points := _points(rows, key))}
    if not lines:
        return None
    figure, axes = _new_axes("epoch", y_label)
    for (label, points), line_color in zip(lines.items(), SERIES, strict=False):
        x, y = zip(*points, strict=True)
        axes.plot(x, y, color=line_color, lw=2, marker="o", ms=4 if len(x) < 25 else 0, label=literal(label))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
    add_legend(figure)
    description = "; ".join(f"{label} from {p[0][1]:.3f} to {p[-1][1]:.3f} in {len(p)} epochs" for label, p in lines.items())
    return render_chart(figure, name, title, f"{title}: {description}.")


def roc(y_true: Ints, y_prob: Floats, names: Sequence[str], threshold: float | None = None) -> Chart | None:
    """Draws the ROC curve of the positive class of two, or of each class against the others.

    Args:
        y_true: (n,) class indices; of several labels at once, (n, K) 1 present, 0 absent, -1 unknown.
        y_prob: (n, K) probabilities.
        names: Class names.
        threshold: Threshold of a two-class decision, marked on the curve.

    Returns:
        The chart, or None if all cases have the same class.
    """
    classes = _classes_with_both_outcomes(y_true, y_prob, names)
    if not classes:
        return None
    figure, axes = _new_axes("1 − specificity", "sensitivity (recall)", square=True)
    axes.plot([0, 1], [0, 1], color=color("grid"), lw=1.5, ls=DASHED)
    descriptions = []
    for (name, positive, probability), line_color in zip(classes, cycle(SERIES), strict=False):
        fpr, tpr, _ = roc_curve(positive, probability)
        area = float(roc_auc_score(positive, probability))
        axes.plot(fpr, tpr, color=line_color, lw=2, label=literal(f"{name}, AUROC {area:.3f}"))
        descriptions.append(f"AUROC {area:.3f} for {name}")
    if threshold is not None and len(names) == 2 and y_true.ndim == 1:
        predicted = y_prob[:, 1] >= threshold
        x, y = float(predicted[y_true == 0].mean()), float(predicted[y_true == 1].mean())
        axes.plot([x], [y], "o", ms=8, mfc="none", mec=color("ink"), mew=1.6, label=f"threshold {threshold:.3f}")
    add_legend(figure)
    return render_chart(figure, "roc", "ROC curve", f"ROC curve: {'; '.join(descriptions)}.")


def precision_recall(y_true: Ints, y_prob: Floats, names: Sequence[str]) -> Chart | None:
    """Draws precision over recall, with the prevalence as the line of chance; arguments as for ``roc``."""
    classes = _classes_with_both_outcomes(y_true, y_prob, names)
    if not classes:
        return None
    figure, axes = _new_axes("recall (sensitivity)", "precision (PPV)", square=True)
    descriptions = []
    for (name, positive, probability), line_color in zip(classes, cycle(SERIES), strict=False):
        precision, recall, _ = precision_recall_curve(positive, probability)
        area = float(average_precision_score(positive, probability))
        label = literal(f"{name}, AUPRC {area:.3f}")
        axes.plot(recall, precision, color=line_color, lw=2, drawstyle="steps-post", label=label)
        axes.axhline(float(positive.mean()), color=line_color, lw=1, ls=DASHED, alpha=0.6)
        descriptions.append(f"AUPRC {area:.3f} for {name} at a prevalence of {positive.mean():.0%}")
    add_legend(figure)
    title = "Precision–recall curve"
    return render_chart(figure, "precision_recall", title, f"{title}: {'; '.join(descriptions)}.")


def calibration(y_true: Ints, y_prob: Floats, names: Sequence[str], rows: Sequence[Mapping[str, Any]] = ()) -> Chart | None:
    """Draws the reliability diagram: observed frequency over predicted probability in ten equal bins, with the bin counts.

    With two classes it shows the probability of the positive class; with more, that of the predicted class. The intervals come
    from ``rows``, which are ``calibration.<class>.curve`` of ``evaluation.json``. Other arguments as for ``roc``.
    """
    if not len(y_true):
        return None
    binary = len(names) == 2
    probability, outcome = (y_prob[:, 1], y_true == 1) if binary else (y_prob.max(1), y_prob.argmax(1) == y_true)
    curve = calibration_curve(outcome, probability, BINS)
    counts = np.bincount(bin_index(probability, BINS), minlength=BINS)
    x_label = f"predicted probability of {names[1]}" if binary else "probability of the predicted class"
    figure, axes = _new_axes(x_label, "observed frequency", square=True)
    axes.bar((np.arange(BINS) + 0.5) / BINS, counts / counts.max() * 0.25, 0.09, color=color("grid"))
    axes.plot([0, 1], [0, 1], color=color("soft"), lw=1.2, ls=DASHED, label="perfect")
    axes.plot(curve.predicted, curve.observed, color=SERIES[0], lw=2, marker="o", ms=6, label="measured")
    with_interval = [row for row in rows if _is_finite(row["ci_low"]) and _is_finite(row["ci_high"])]
    x, low, high = ([row[key] for row in with_interval] for key in ("predicted", "ci_low", "ci_high"))
    axes.vlines(x, low, high, color=SERIES[0], lw=1.4, alpha=0.6)
    axes.plot([], [], "s", ms=8, color=color("grid"), label=f"cases per bin (maximum {counts.max()})")
    add_legend(figure)
    bins = zip(curve.predicted, curve.observed, curve.count, strict=True)
    description = "; ".join(f"predicted {p:.2f}, observed {o:.2f}, {n} cases" for p, o, n in bins)
    return render_chart(figure, "calibration", "Calibration", f"Calibration by bins: {description}.")


def _points(rows: Sequence[Mapping[str, object]], key: str) -> list[tuple[float, float]]:
    pairs = [(row.get("epoch"), row.get(key)) for row in rows]
    return [(float(x), float(y)) for x, y in pairs if _is_finite(x) and _is_finite(y)]  # type: ignore[arg-type]


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and bool(np.isfinite(value))


def _classes_with_both_outcomes(
    y_true: Ints, y_prob: Floats, names: Sequence[str]
) -> list[tuple[str, NDArray[np.bool_], Floats]]:
    """Returns name, outcomes and probabilities of the classes with both positive and negative cases.

    With two classes only the positive one is included. Of several labels at once, each has its own known cases.
    """
    if y_true.ndim == 2:
        rows = known_rows(y_true)
        classes = [(name, y_true[rows[k], k] == 1, y_prob[rows[k], k]) for k, name in enumerate(names)]
    else:
        first = 1 if len(names) == 2 else 0
        classes = [(name, y_true == k, y_prob[:, k]) for k, name in enumerate(names) if k >= first]
    return [(name, positive, probability) for name, positive, probability in classes if 0 < positive.sum() < len(positive)]


def _new_axes(x_label: str, y_label: str, *, square: bool = False) -> tuple[Figure, Axes]:
    figure, axes = new_axes(5.2, 4.4 if square else 3.5, x_label, y_label)
    figure.subplots_adjust(0.125, 0.13 if square else 0.155, 0.985, 0.97)
    if square:
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.04)
    return figure, axes
