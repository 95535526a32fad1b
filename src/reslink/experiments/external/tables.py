"""The report of an external evaluation: conclusions, tables and charts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from reslink.bundles.bundle import Bundle
from reslink.bundles.scope import refused_texts
from reslink.evaluation.selective import NOTHING_FITTED, can_abstain
from reslink.experiments.external.acquisition import BINS, compare_acquisitions, gray_distance, mean_histogram
from reslink.experiments.external.evaluation import DatasetEvaluation
from reslink.experiments.external.local_patients import SIZES, LocalFit, local_chart, local_sentences, local_table
from reslink.experiments.report import ExperimentReport, Row, Table
from reslink.experiments.robustness.tables import NO_FINGERPRINTS, count_by_reason
from reslink.metrics.classification import METRIC_NAMES
from reslink.metrics.intervals import Estimate, undefined
from reslink.metrics.paired_proportions import independent_difference

METRICS = ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "auroc")
SUBGROUP_METRICS = ("accuracy", "sensitivity", "specificity", "auroc")
_ANSWERS: Final[dict[str, tuple[str, Any]]] = {
    "coverage": ("coverage (of the images in scope)", "estimate"),
    "silent_errors": ("silent errors (of the images in scope)", "estimate"),
}
LARGE_DROP = 0.1
"""A drop of more than ten points is flagged."""


@dataclass(frozen=True)
class _Evaluations:
    """The evaluations of an experiment.

    Attributes:
        internal: Evaluation of the internal data; None if none was given.
        external: Evaluations of the external data sets without a failure.
        reference: The evaluation of the internal data, or the test metrics in the bundle.
    """

    internal: DatasetEvaluation | None
    external: Sequence[DatasetEvaluation]
    reference: Mapping[str, Any]

    @property
    def all(self) -> list[DatasetEvaluation]:
        """The internal data, if it was evaluated, and the external data sets."""
        internal = [self.internal] if self.internal is not None and self.internal.evaluation else []
        return [*internal, *self.external]


def make_report(
    bundle: Bundle,
    internal: DatasetEvaluation | None,
    external: Sequence[DatasetEvaluation],
    label_map: Mapping[str, str | None],
) -> ExperimentReport:
    """Returns the report.

    Args:
        bundle: The bundle.
        internal: Evaluation of the internal data; None if none was given.
        external: Evaluations of the external data sets.
        label_map: The class of each label of the external data.
    """
    successful = [dataset for dataset in external if not dataset.failure]
    reference = internal.evaluation if internal is not None and internal.evaluation else bundle.metrics
    evaluations = _Evaluations(internal, successful, reference)
    rows = [row for dataset in successful for row in _drop_rows(reference, dataset)]
    return ExperimentReport(
        name="external",
        title=f"External evaluation: {', '.join(dataset.name for dataset in external)}",
        question="What does the model achieve on data of another site, scanner or modality, and how does that data differ?",
        answer=[*_answer(rows, successful), *local_sentences(_local_fits(successful))],
        facts=_facts(bundle, evaluations, label_map),
        tables=[
            _drop_table(rows),
            _label_table(evaluations),
            _answers_table(evaluations),
            _subgroup_table(evaluations),
            local_table(_local_fits(successful)),
            *_acquisition_tables(evaluations),
            _excluded_table(evaluations),
        ],
        charts=_charts(evaluations, rows),
        runs=[_flat_row(row) for row in rows],
        failed=[{"run": dataset.name, "reason": dataset.failure} for dataset in external if dataset.failure],
        not_done=list(_not_done(bundle, evaluations)),
    )


def _drop_rows(reference: Mapping[str, Any], dataset: DatasetEvaluation) -> list[Row]:
    internal_metrics = reference.get("metrics", {})
    rows = []
    for name in METRICS:
        internal, external = internal_metrics.get(name), dataset.evaluation["metrics"][name]
        drop = _drop(internal, external)
        flagged = drop.estimate is not None and drop.estimate > LARGE_DROP + 1e-9  # exactly ten points are not flagged
        row: Row = {"data": dataset.name, "metric": name, "title": METRIC_NAMES[name], "internal": internal}
        row |= {"external": external, "drop": drop.as_dict(), "flagged": flagged}
        row |= {"n_refused": dataset.evaluation["n_refused"]}
        rows.append(row | {"flag": "more than 10 points" if flagged else ""})
    return rows


def _drop(internal: Mapping[str, Any] | None, external: Mapping[str, Any]) -> Estimate:
    if internal is None:
        return undefined("the internal value is unknown", 0)
    return independent_difference(Estimate.from_dict(internal), Estimate.from_dict(external))


def _facts(bundle: Bundle, evaluations: _Evaluations, label_map: Mapping[str, str | None]) -> dict[str, Any]:
    positive = bundle.labels.positive
    facts = {"Classes": ", ".join(bundle.labels.names) + (f" (positive: {positive})" if positive else "")}
    facts["Internal metrics"] = _internal_source(bundle, evaluations.internal)
    for dataset in evaluations.external:
        evaluation = dataset.evaluation
        n_failed, n_excluded = evaluation["n_failed"], _count_excluded(dataset)
        losses = (f", {n_failed} failed" if n_failed else "") + (f", {n_excluded} excluded" if n_excluded else "")
        losses += "".join(f"; {text}" for text in refused_texts(evaluation))
        facts[f"Images of {dataset.name}"] = f"{evaluation['n']} in {evaluation['n_groups']} groups{losses}"
    if label_map:
        facts["Labels"] = ", ".join(f"{label} → {name or 'excluded'}" for label, name in label_map.items())
    return facts | {"Weights SHA-256": (bundle.weights_sha256 or "")[:16]}


def _internal_source(bundle: Bundle, internal: DatasetEvaluation | None) -> str:
    if internal is not None and internal.evaluation:
        excluded = f"; {len(internal.excluded)} training images are excluded" if internal.excluded else ""
        refused = "".join(f"; {text}" for text in refused_texts(internal.evaluation))
        return f"{internal.evaluation['n']} images of the internal data{excluded}{refused}"
    if not bundle.metrics.get("n"):
        return "unknown"
    return "; ".join([f"{bundle.metrics['n']} test images, from the bundle", *refused_texts(bundle.metrics)])


def _answer(rows: Sequence[Row], external: Sequence[DatasetEvaluation]) -> list[str]:
    sentences = []
    for dataset in external:
        by_metric = {row["metric"]: row for row in rows if row["data"] == dataset.name}
        sentences += [f"{dataset.name}: {text}." for text in refused_texts(dataset.evaluation)]
        sentences += _excluded_sentence(dataset)
        sentences.append(_answered_sentence(dataset))
        flagged = [row for row in by_metric.values() if row["flagged"]]
        for row in flagged:
            drop = _points(row["drop"])
            sentences.append(f"{dataset.name}: {row['title']} drops by {drop} ({_both_values(row)}). Flagged.")
        if flagged:
            continue
        if all(row["drop"]["estimate"] is None for row in by_metric.values()):
            sentences.append(f"{dataset.name}: no drop is available.")
        else:
            values = _both_values(by_metric["accuracy"])
            sentences.append(f"{dataset.name}: no metric drops by more than 10 points ({values}).")
    return sentences


def _points(drop: Mapping[str, Any]) -> str:
    interval = "" if drop["ci_low"] is None else f" (95 % interval {100 * drop['ci_low']:.1f} to {100 * drop['ci_high']:.1f})"
    return f"{100 * drop['estimate']:.1f} points{interval}"


def _both_values(row: Row) -> str:
    values = (None if row[key] is None else row[key]["estimate"] for key in ("internal", "external"))
    internal, external = ("unknown" if value is None else f"{value:.3f}" for value in values)
    return f"{row['title']} {internal} internal, {external} external"


def _drop_table(rows: Sequence[Row]) -> Table:
    columns: dict[str, tuple[str, Any]] = {
        "data": ("Data", "text"),
        "title": ("Metric", "text"),
        "internal": ("internal", "estimate"),
        "external": ("external", "estimate"),
        "n_refused": ("refused images", "count"),
        "drop": ("drop", "test"),
        "flag": ("", "text"),
    }
    note = (
        "Drop: internal minus external. Refused images of the external data are not counted. "
        "Accuracy also depends on the class frequencies, which differ between data sets; "
        "sensitivity, specificity, balanced accuracy and AUROC do not. Interval of the drop: MOVER (Zou and Donner 2008) "
        "from the intervals of the two metrics over patients or duplicate groups."
    )
    return Table("drop", "Internal and external metrics", columns, rows, note)


def _label_table(evaluations: _Evaluations) -> Table:
    """Returns the accuracy for each original label of the external data."""
    columns: dict[str, tuple[str, Any]] = {
        "data": ("Data", "text"),
        "label": ("Original label", "text"),
        "n": ("images", "count"),
        "accuracy": ("correctly classified", "estimate"),
    }
    rows = [
        {"data": dataset.name, "label": label, "n": subgroup["n"], "accuracy": subgroup["metrics"]["accuracy"]}
        for dataset in evaluations.external
        for label, subgroup in dataset.evaluation.get("subgroups", {}).get("given_label", {}).items()
    ]
    return Table("labels", "Accuracy by original label", columns, rows)


def _answers_table(evaluations: _Evaluations) -> Table:
    """Returns coverage, silent errors and calibration error of each data set, and of the internal metrics where known."""
    columns: dict[str, tuple[str, Any]] = {"data": ("Data", "text"), **_ANSWERS, "ece": (METRIC_NAMES["ece"], "estimate")}
    named = [("internal", evaluations.reference), *((dataset.name, dataset.evaluation) for dataset in evaluations.external)]
    rows: list[Row] = []
    for name, evaluation in named:
        selective, metrics = evaluation.get("selective") or {}, evaluation.get("metrics") or {}
        row = {"data": name, "ece": metrics.get("ece")} | {key: selective.get(key) for key in _ANSWERS}
        if any(value is not None for value in row.values() if value is not name):
            rows.append(row)
    note = (
        "Silent errors: wrong answers without an abstention. All other metrics include the images with an abstention. Refused "
        "images are out of scope and not counted here; leave-one-source-out counts them as abstentions."
    )
    return Table("answers", "Answered images, silent errors and calibration", columns, rows, note)


def _subgroup_table(evaluations: _Evaluations) -> Table:
    """Returns the metrics of the subgroups by source, by columns of 0 and 1, and by the chosen columns."""
    columns: dict[str, tuple[str, Any]] = {"data": ("Data", "text"), "column": ("Column", "text"), "value": ("Value", "text")}
    columns |= {"n": ("images", "count"), "groups": ("patients or duplicate groups", "count")}
    columns |= {name: (METRIC_NAMES[name], "estimate") for name in SUBGROUP_METRICS}
    rows = [
        {"data": dataset.name, "column": column, "value": value, "n": own["n"], "groups": own["n_groups"]}
        | {name: own["metrics"][name] for name in SUBGROUP_METRICS}
        | {name: own["selective"].get(name) for name in _ANSWERS}
        for dataset in evaluations.external
        for column, values in dataset.evaluation.get("subgroups", {}).items()
        if column != "given_label"
        for value, own in values.items()
    ]
    if any(row["coverage"] for row in rows):
        columns |= _ANSWERS
    note = "By the source, by columns of the table that hold only 0 and 1, and by the columns that --by names."
    return Table("subgroups", "Subgroups", columns, rows, note)


def _local_fits(external: Sequence[DatasetEvaluation]) -> dict[str, Sequence[LocalFit]]:
    return {dataset.name: dataset.local_fits for dataset in external}


def _excluded_sentence(dataset: DatasetEvaluation) -> list[str]:
    """Returns how many images the model was trained on, if any, and what that means if they are most of the data."""
    n, n_excluded = dataset.evaluation["n"], _count_excluded(dataset)
    if not n_excluded:
        return []
    sentence = (
        f"{dataset.name}: {n_excluded} of {n + n_excluded} images are left out, because the model was trained on them or their "
        "near duplicates."
    )
    known = " Most of this data is known to the model: it is no data of another hospital." if n_excluded > n else ""
    return [sentence + known]


def _count_excluded(dataset: DatasetEvaluation) -> int:
    return len(dataset.excluded) + len(dataset.evaluation.get("excluded", ()))


def _answered_sentence(dataset: DatasetEvaluation) -> str:
    selective = dataset.evaluation["selective"]
    coverage, silent = (100 * selective[name]["estimate"] for name in ("coverage", "silent_errors"))
    return (
        f"{dataset.name}: the model answers {coverage:.1f} % of the images in scope, and {silent:.1f} % of them get a "
        "wrong answer without an abstention."
    )


def _acquisition_tables(evaluations: _Evaluations) -> Iterator[Table]:
    columns: dict[str, tuple[str, Any]] = {
        "title": ("", "text"),
        "internal": ("internal", "text"),
        "external": ("external", "text"),
        "difference": ("difference", "number"),
        "ks": ("KS", "number"),
        "flag": ("", "text"),
    }
    note = (
        "Median (quartiles), or shares. Difference: external minus internal in pooled standard deviations; 0.8 and more is "
        "called large (Cohen 1988). For categories it is half the sum of the absolute differences of the shares. KS: the "
        "Kolmogorov–Smirnov statistic, 0 for equal and 1 for separate distributions. Gray values are those of the network's "
        "input."
    )
    internal = evaluations.internal.acquisitions if evaluations.internal else ()
    for i, dataset in enumerate(evaluations.external):
        rows = compare_acquisitions(internal, dataset.acquisitions)
        flagged = [{**row, "flag": "large" if row["large"] else ""} for row in rows]
        sizes = f"{len(internal)} internal images, {len(dataset.acquisitions)} of {dataset.name}"
        title = f"Acquisition differences: {dataset.name}"
        yield Table(f"differences-{i + 1}", title, columns, flagged, f"{sizes}. {note}")


def _excluded_table(evaluations: _Evaluations) -> Table:
    columns: dict[str, tuple[str, Any]] = {
        "data": ("Data", "text"),
        "reason": ("Reason", "text"),
        "n": ("images", "count"),
        "examples": ("Examples", "text"),
    }
    rows: list[Row] = [
        {"data": dataset.name, **row}
        for dataset in evaluations.external
        for row in count_by_reason([*dataset.excluded, *dataset.evaluation.get("excluded", ())])
    ]
    return Table("excluded", "Excluded training images and near duplicates", columns, rows)


def _charts(evaluations: _Evaluations, rows: Sequence[Row]) -> list[dict[str, Any]]:
    intervals = [_interval_chart(evaluations, rows, name) for name in ("balanced_accuracy", "auroc")]
    return intervals + local_chart(_local_fits(evaluations.external)) + _gray_chart(evaluations)


def _interval_chart(evaluations: _Evaluations, rows: Sequence[Row], metric: str) -> dict[str, Any]:
    internal = evaluations.reference.get("metrics", {}).get(metric)
    values = [("internal", internal)] if internal else []
    values += [(row["data"], row["external"]) for row in rows if row["metric"] == metric]
    return {
        "kind": "intervals",
        "name": f"external-{metric}",
        "title": METRIC_NAMES[metric],
        "axis": METRIC_NAMES[metric],
        "reference": None,
        "rows": [
            {"label": label, **{key: value[key] for key in ("estimate", "ci_low", "ci_high")}, "points": []}
            for label, value in values
        ],
    }


def _gray_chart(evaluations: _Evaluations) -> list[dict[str, Any]]:
    internal = [evaluations.internal] if evaluations.internal else []
    measured = [dataset for dataset in [*internal, *evaluations.external] if dataset.acquisitions]
    if not measured:
        return []
    centers = [(i + 0.5) / BINS for i in range(1, BINS - 1)]
    return [
        {
            "kind": "lines",
            "name": "gray",
            "title": "Gray values inside the head, without the darkest and the brightest 1/64",
            "axis_x": "gray value of the network's input",
            "axis_y": "share of the head's pixels",
            "reference": None,
            "series": [
                {
                    "label": dataset.name,
                    "x": centers,
                    "y": mean_histogram(dataset.acquisitions)[1:-1].tolist(),
                    "low": None,
                    "high": None,
                }
                for dataset in measured
            ],
        }
    ]


def _flat_row(row: Row) -> Row:
    flat: Row = {"data": row["data"], "metric": row["metric"], "flagged": row["flagged"], "n_refused": row["n_refused"]}
    for key in ("internal", "external", "drop"):
        value = row[key] or {}
        flat |= {key: value.get("estimate"), f"{key}_ci_low": value.get("ci_low"), f"{key}_ci_high": value.get("ci_high")}
    return flat


def _not_done(bundle: Bundle, evaluations: _Evaluations) -> Iterator[str]:
    internal = evaluations.internal
    if internal is not None and internal.failure:
        yield f"The internal data could not be evaluated: {internal.failure}"
    if not evaluations.reference.get("metrics"):
        yield "Drop: the bundle has no test metrics. Add data from the source of the training data: --internal DATA."
    if internal is None:
        yield "Acquisition differences: no internal data was given: --internal DATA."
    for dataset in evaluations.external:
        for name in METRICS:
            estimate = Estimate.from_dict(dataset.evaluation["metrics"][name])
            if estimate.estimate is None or estimate.ci_low is None:
                yield f"{dataset.name}, {METRIC_NAMES[name]}: {estimate.method}."
        sizes = {fit.patients for fit in dataset.local_fits}
        if missing := [str(size) for size in SIZES if size not in sizes]:
            unit = dataset.local_fits[0].unit
            yield f"{dataset.name}, refitting to {', '.join(missing)} local {unit}: there are {dataset.evaluation['n_groups']}."
        if not can_abstain(dataset.evaluation):
            yield f"{dataset.name}, abstention: {NOTHING_FITTED}."
        if internal is not None and gray_distance(internal.acquisitions, dataset.acquisitions) is None:
            yield f"{dataset.name}, gray values: no head was detected."
    if not bundle.knows_seen_images:
        yield NO_FINGERPRINTS
