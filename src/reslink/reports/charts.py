"""The charts of a run: learning curves, ROC, precision–recall, calibration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from reslink.metrics.calibration import bin_index, reliability_curve
from reslink.reports.svg import SERIES, Chart, colour, draw

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Place = Literal["best", "lower right", "lower left", "upper left"]
BINS = 10


def curves(rows: Sequence[Mapping[str, object]], keys: Mapping[str, str], name: str, title: str, axis: str) -> Chart | None:
    """Draws numbers by epoch.

    Args:
        rows: One a epoch, with ``epoch`` and numbers; what is missing or not finite is left out.
        keys: Column to the name of its line.
        name: Short name of the chart.
        title: What stands above it.
        axis: What stands at the vertical axis.

    Returns:
        The chart, or None where no column has a value.
    """
    lines = {label: points for key, label in keys.items() if (points := _points(rows, key))}
    if not lines:
        return None
    figure, axes = _axes(axis_x="epoch", axis_y=axis)
    for (label, points), line in zip(lines.items(), SERIES, strict=False):
        x, y = zip(*points, strict=True)
        axes.plot(x, y, color=line, lw=2, marker="o", ms=4 if len(x) < 25 else 0, label=_plain(label))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    _legend(axes)
    spoken = "; ".join(f"{label} from {p[0][1]:.3f} to {p[-1][1]:.3f} in {len(p)} epochs" for label, p in lines.items())
    return draw(figure, name, title, f"{title}: {spoken}.")


def roc(y_true: Ints, y_prob: Floats, names: Sequence[str], threshold: float | None = None) -> Chart | None:
    """Draws the ROC curve of the positive class of two, or of each class against the rest.

    Args:
        y_true: (n,) class indices.
        y_prob: (n, K) probabilities.
        names: Class names.
        threshold: Where a two-class decision is taken; marked on the curve.

    Returns:
        The chart, or None where every case has the same class.
    """
    classes = _drawable(y_true, names)
    if not classes:
        return None
    figure, axes = _axes("1 − specificity", "sensitivity (recall)", square=True)
    axes.plot([0, 1], [0, 1], color=colour("grid"), lw=1.5, ls=(0, (4, 3)))
    spoken = []
    for (k, name), line in zip(classes, _cycle(), strict=False):
        positive = y_true == k
        fpr, tpr, _ = roc_curve(positive, y_prob[:, k])
        area = float(roc_auc_score(positive, y_prob[:, k]))
        axes.plot(fpr, tpr, color=line, lw=2, label=_plain(f"{name}, AUROC {area:.3f}"))
        spoken.append(f"AUROC {area:.3f} for {name}")
    if threshold is not None and len(names) == 2:
        called = y_prob[:, 1] >= threshold
        x, y = float(called[y_true == 0].mean()), float(called[y_true == 1].mean())
        axes.plot([x], [y], "o", ms=8, mfc="none", mec=colour("ink"), mew=1.6, label=f"threshold {threshold:.2f}")
    _legend(axes, "lower right")
    return draw(figure, "roc", "ROC", f"ROC curve: {'; '.join(spoken)}.")


def precision_recall(y_true: Ints, y_prob: Floats, names: Sequence[str]) -> Chart | None:
    """Draws precision over recall, with the prevalence as the line of a guess; arguments as for ``roc``."""
    classes = _drawable(y_true, names)
    if not classes:
        return None
    figure, axes = _axes("recall (sensitivity)", "precision (PPV)", square=True)
    spoken = []
    for (k, name), line in zip(classes, _cycle(), strict=False):
        positive = y_true == k
        precision, recall, _ = precision_recall_curve(positive, y_prob[:, k])
        area = float(average_precision_score(positive, y_prob[:, k]))
        axes.plot(recall, precision, color=line, lw=2, drawstyle="steps-post", label=_plain(f"{name}, AUPRC {area:.3f}"))
        axes.axhline(float(positive.mean()), color=line, lw=1, ls=(0, (4, 3)), alpha=0.6)
        spoken.append(f"AUPRC {area:.3f} for {name} at a prevalence of {positive.mean():.0%}")
    _legend(axes, "lower left")
    return draw(figure, "precision_recall", "Precision–recall", f"Precision–recall curve: {'; '.join(spoken)}.")


def calibration(y_true: Ints, y_prob: Floats, names: Sequence[str], rows: Sequence[Mapping[str, Any]] = ()) -> Chart | None:
    """Draws how often what was said with a probability was so, in ten equal bins, and how many cases each bin holds.

    With two classes this is the probability of the positive one; with more, that of the class predicted. ``rows`` are
    those of ``calibration.<class>.curve`` in ``evaluation.json``, whose intervals are drawn. Other arguments as for
    ``roc``.
    """
    if not len(y_true):
        return None
    said, right = (y_prob[:, 1], y_true == 1) if len(names) == 2 else (y_prob.max(1), y_prob.argmax(1) == y_true)
    curve = reliability_curve(right, said, BINS)
    counts = np.bincount(bin_index(said, BINS), minlength=BINS)
    what = f"probability of {names[1]}" if len(names) == 2 else "probability of the predicted class"
    figure, axes = _axes(what, "share that was so", square=True)
    axes.bar((np.arange(BINS) + 0.5) / BINS, counts / counts.max() * 0.25, 0.09, color=colour("grid"))
    axes.plot([0, 1], [0, 1], color=colour("soft"), lw=1.2, ls=(0, (4, 3)), label="perfect")
    axes.plot(curve.predicted, curve.observed, color=SERIES[0], lw=2, marker="o", ms=6, label="measured")
    known = [row for row in rows if _finite(row["ci_low"]) and _finite(row["ci_high"])]
    x, low, high = ([row[key] for row in known] for key in ("predicted", "ci_low", "ci_high"))
    axes.vlines(x, low, high, color=SERIES[0], lw=1.4, alpha=0.6)
    axes.plot([], [], "s", ms=8, color=colour("grid"), label=f"cases a bin (most: {counts.max()})")
    _legend(axes, "upper left")
    bins = zip(curve.predicted, curve.observed, curve.count, strict=True)
    spoken = "; ".join(f"{m:.2f} said, {s:.2f} so, {n} cases" for m, s, n in bins)
    return draw(figure, "calibration", "Calibration", f"Calibration by bins: {spoken}.")


def _points(rows: Sequence[Mapping[str, object]], key: str) -> list[tuple[float, float]]:
    pairs = [(row.get("epoch"), row.get(key)) for row in rows]
    return [(float(x), float(y)) for x, y in pairs if _finite(x) and _finite(y)]  # type: ignore[arg-type]


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and bool(np.isfinite(value))


def _drawable(y_true: Ints, names: Sequence[str]) -> list[tuple[int, str]]:
    """The classes that have a case and a counter-case; only the positive one of two."""
    classes = [(1, names[1])] if len(names) == 2 else list(enumerate(names))
    return [(k, name) for k, name in classes if 0 < int((y_true == k).sum()) < len(y_true)]


def _cycle() -> Iterable[str]:
    while True:
        yield from SERIES


def _axes(axis_x: str, axis_y: str, *, square: bool = False) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.2, 4.4 if square else 3.5))
    figure.patch.set_alpha(0)
    axes = figure.subplots()
    figure.subplots_adjust(0.125, 0.13 if square else 0.155, 0.985, 0.97)
    axes.patch.set_alpha(0)
    axes.grid(color=colour("grid"), lw=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel(_plain(axis_x), color=colour("soft"), size=11)
    axes.set_ylabel(_plain(axis_y), color=colour("soft"), size=11)
    axes.tick_params(colors=colour("soft"), length=0, labelsize=10)
    for side in axes.spines.values():
        side.set_visible(False)
    if square:
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.04)
    return figure, axes


def _legend(axes: Axes, place: Place = "best") -> None:
    legend = axes.legend(loc=place, frameon=False, labelcolor=colour("ink"), fontsize=10, handlelength=1.6)
    legend.set_zorder(5)


def _plain(text: str) -> str:
    """Text that matplotlib takes literally: no formula, no leading underscore (it hides a line from the legend)."""
    short = text if len(text) <= 48 else text[:47] + "…"
    return (" " + short if short.startswith("_") else short).replace("$", r"\$")
