"""What a few labeled local patients would buy: temperature and threshold refitted to them, and measured on the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from reslink.bundles.decision.decision import Decision, two_column_logits
from reslink.datasets.case import Case
from reslink.datasets.grouping import GroupBy
from reslink.evaluation.fitting import fit_temperature
from reslink.evaluation.predictions_csv import CasePredictions
from reslink.experiments.report import Table
from reslink.labels import Labels
from reslink.metrics.classification import METRIC_NAMES, point_metrics
from reslink.metrics.intervals import MIN_GROUPS, Estimate, undefined
from reslink.metrics.operating_point import OperatingPoint, choose_threshold
from reslink.reports.formatting import format_difference

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]

SIZES: Final = (5, 10, 20, 40)
DRAWS: Final = 30
MEASURES: Final = ("accuracy", "ece", "sensitivity", "specificity")
CHANGES: Final = ("accuracy", "ece")


@dataclass(frozen=True)
class LocalFit:
    """The model after refitting to a number of local patients.

    Attributes:
        patients: Number of patients, or of ``unit``; 0 for the frozen model on all images.
        unit: What was drawn, in the plural: see :func:`drawn_unit`.
        images: Their images, the median of the draws.
        one_class: Number of draws whose patients are all of one class, so that nothing is refitted.
        metrics: Median and range over the draws, on the images of all other patients.
        changes: The same of the change to the frozen model on the same images.
    """

    patients: int
    unit: str
    images: int
    one_class: int
    metrics: dict[str, Estimate]
    changes: dict[str, Estimate]

    def as_row(self) -> dict[str, Any]:
        """Returns the JSON form."""
        changes = {f"{name}_change": value.as_dict() for name, value in self.changes.items()}
        counts = {"patients": self.patients, "unit": self.unit, "images": self.images, "one_class": self.one_class}
        return counts | {name: value.as_dict() for name, value in self.metrics.items()} | changes


def drawn_unit(cases: Sequence[Case], n_groups: int, group_by: GroupBy) -> str:
    """Returns what the groups of some cases are, in the plural: patients only where a patient is known."""
    known = sum(case.patient_id is not None for case in cases)
    if known == len(cases):
        return "patients"
    groups = "probable scans" if group_by == "scan" else "duplicate groups"
    images = "images" if n_groups == len(cases) else groups
    return f"patients or {images}" if known else images


def fit_to_local_patients(cases: CasePredictions, decision: Decision, labels: Labels, seed: int = 0) -> list[LocalFit]:
    """Refits temperature and threshold to random patients and measures the model on all others, for several numbers of them.

    Args:
        cases: The predictions for the external data.
        decision: The decision of the frozen model.
        labels: The classes; with more than two there is no threshold.
        seed: Seed of the draws.

    Returns:
        The frozen model, and one entry for each of ``SIZES`` that leaves ``MIN_GROUPS`` patients to measure on.
    """
    y_true = np.array([labels.index(case.label) for case in cases.manifest.cases], np.int64)
    index = np.unique(np.asarray(cases.groups, dtype=str), return_inverse=True)[1]
    n_groups, rng = int(index.max()) + 1, np.random.default_rng(seed)
    frozen = _measure(decision, cases.logits, y_true)
    unit = drawn_unit(cases.manifest.cases, n_groups, cases.group_by)
    fits = [LocalFit(0, unit, 0, 0, {name: _single(value, len(y_true)) for name, value in frozen.items()}, {})]
    for size in SIZES:
        if n_groups - size >= MIN_GROUPS:
            draws = [np.isin(index, rng.choice(n_groups, size, replace=False)) for _ in range(DRAWS)]
            fits.append(_fit((size, unit), draws, cases.logits, y_true, decision))
    return fits


def _fit(
    drawn: tuple[int, str], draws: Sequence[NDArray[np.bool_]], logits: Floats, y_true: Ints, decision: Decision
) -> LocalFit:
    """Returns the fit to each of some draws; ``drawn`` is how many of what."""
    after, before = [], []
    for local in draws:
        refitted = refit(decision, logits[local], y_true[local])
        after.append(_measure(refitted, logits[~local], y_true[~local]))
        before.append(_measure(decision, logits[~local], y_true[~local]))
    return LocalFit(
        *drawn,
        images=int(np.median([local.sum() for local in draws])),
        one_class=sum(len(np.unique(y_true[local])) < 2 for local in draws),
        metrics={name: _summary([own[name] for own in after]) for name in MEASURES},
        changes={name: _summary([_minus(a[name], b[name]) for a, b in zip(after, before, strict=True)]) for name in CHANGES},
    )


def refit(decision: Decision, logits: Floats, y_true: Ints) -> Decision:
    """Returns a decision with the temperature and, with two classes, the threshold of the best Youden index on a few cases.

    The decision stays as it is if all cases are of one class: they give no threshold, and another temperature alone would move
    the operating point. The temperature stays if all cases are classified correctly, because the best one would be 0.

    Args:
        decision: The decision.
        logits: (n, K), or (n, 1).
        y_true: (n,) class indices.
    """
    if len(np.unique(y_true)) < 2:
        return decision
    if (two_column_logits(logits).argmax(axis=1) != y_true).any():
        decision = decision.model_copy(update={"temperature": fit_temperature(logits, y_true), "isotonic": ()})
    if decision.threshold is None:
        return decision
    threshold = choose_threshold(OperatingPoint("youden"), y_true, decision.probabilities(logits)[:, 1])
    return decision.model_copy(update={"threshold": threshold})


def _measure(decision: Decision, logits: Floats, y_true: Ints) -> dict[str, float | None]:
    probabilities = decision.probabilities(logits)
    metrics = point_metrics(y_true, probabilities, decision.predict(probabilities))
    return {name: metrics[name] for name in MEASURES}


def _single(value: float | None, n: int) -> Estimate:
    return undefined("a class is missing", n) if value is None else Estimate(value, None, None, "all images", n)


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _summary(values: Sequence[float | None]) -> Estimate:
    """Returns the median with the range in place of an interval."""
    defined = [value for value in values if value is not None]
    if not defined:
        return undefined("a class is missing in every draw", 0)
    method = f"median and range of {len(defined)} draws"
    return Estimate(float(np.median(defined)), min(defined), max(defined), method, len(defined))


def local_table(fits: Mapping[str, Sequence[LocalFit]]) -> Table:
    """Returns the metrics after refitting to a few local patients, or images if no patient is known, of each data set."""
    columns: dict[str, tuple[str, Any]] = {
        "data": ("Data", "text"),
        "patients": ("labeled and local", "count"),
        "unit": ("of what", "text"),
        "images": ("their images", "count"),
        **{name: (METRIC_NAMES[name], "estimate") for name in MEASURES},
        **{f"{name}_change": (f"{METRIC_NAMES[name]}, change", "test") for name in CHANGES},
        "one_class": ("draws of one class", "count"),
    }
    rows = [{"data": name, **fit.as_row()} for name, own in fits.items() for fit in own]
    one_class = sum(fit.one_class for own in fits.values() for fit in own)
    note = (
        f"Median and range over {DRAWS} draws of patients, or of duplicate groups, probable scans or images where no "
        "patient is known. Temperature and, with two classes, threshold (Youden index) are refitted to the drawn ones; the "
        "metrics are those of all others. Change: to the frozen model on the same images. 0: the frozen model on all "
        f"images. Draws of one class change nothing; there are {one_class} of them."
    )
    return Table("local", f"What a few labeled local {_units(fits)} would buy", columns, rows, note)


def _units(fits: Mapping[str, Sequence[LocalFit]]) -> str:
    return " or ".join(dict.fromkeys(fit.unit for own in fits.values() for fit in own)) or "patients"


def local_sentences(fits: Mapping[str, Sequence[LocalFit]]) -> Iterator[str]:
    """Yields what the largest number of local patients changes, one sentence per data set."""
    for data, own in fits.items():
        for fit in [fit for fit in own if fit.changes][-1:]:
            changes = " and ".join(f"{METRIC_NAMES[name]} by {_change(fit.changes[name])}" for name in CHANGES)
            yield (
                f"{data}: recalibrating to {fit.patients} labeled local {fit.unit} changes {changes} "
                f"(median and range of {DRAWS} draws)."
            )


def _change(estimate: Estimate) -> str:
    low, high = format_difference(estimate.ci_low), format_difference(estimate.ci_high)
    return f"{format_difference(estimate.estimate)} ({low} to {high})"


def local_chart(fits: Mapping[str, Sequence[LocalFit]]) -> list[dict[str, Any]]:
    """Returns the chart of the accuracy by the number of local patients."""
    series = []
    for name, fitted in fits.items():
        own = [(fit.patients, fit.metrics["accuracy"]) for fit in fitted]
        series.append(
            {
                "label": name,
                "x": [patients for patients, _ in own],
                "y": [value.estimate for _, value in own],
                "low": [value.estimate if value.ci_low is None else value.ci_low for _, value in own],
                "high": [value.estimate if value.ci_high is None else value.ci_high for _, value in own],
            }
        )
    if not any(len(one["x"]) > 1 for one in series):
        return []
    return [
        {
            "kind": "lines",
            "name": "local-patients",
            "title": f"Accuracy after refitting to local {_units(fits)}, median and range of {DRAWS} draws",
            "axis_x": f"labeled local {_units(fits)}",
            "axis_y": METRIC_NAMES["accuracy"],
            "reference": None,
            "series": series,
        }
    ]
