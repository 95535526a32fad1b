"""What the transfer study says: sentences, tables and charts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from reslink.bundles.bundle import Bundle
from reslink.experiments.report import Row, Study, Table
from reslink.experiments.robustness.tables import by_reason
from reslink.experiments.transfer.acquisition import BINS, compared, grey_distance, histogram
from reslink.metrics.classification import NAMES
from reslink.metrics.intervals import Estimate
from reslink.metrics.paired_proportions import difference_of_records
from reslink.reports.run.flow_diagram import abstains

if TYPE_CHECKING:
    from reslink.experiments.transfer.transfer import Judgement

FIGURES = ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "auroc")
FLAG = 0.1
"""A drop of more than ten points is flagged."""


def report(bundle: Bundle, own: Judgement | None, judged: Sequence[Judgement], rename: Mapping[str, str | None]) -> Study:
    """Returns the study.

    Args:
        bundle: What was judged.
        own: The inside data, judged; None where none was given.
        judged: The other data sets.
        rename: What their labels stood for.
    """
    good = [one for one in judged if not one.failure]
    inside = own.evaluation if own is not None and own.evaluation else bundle.metrics
    rows = [row for one in good for row in _drops(inside, one)]
    return Study(
        name="transfer",
        title=f"Transfer to {', '.join(one.name for one in judged)}",
        question="What is left of the figures on data of another site, scanner or modality, and what is different about it?",
        answer=_answer(rows, good),
        facts=_facts(bundle, own, good, rename),
        tables=[_drop_table(rows), _labels(good), _abstained(own, good), *_differences(own, good), _left_out(good)],
        charts=_charts(own, good, inside, rows),
        runs=[_flat(row) for row in rows],
        failed=[{"run": one.name, "reason": one.failure} for one in judged if one.failure],
        not_done=list(_not_done(bundle, own, inside, good)),
    )


def _drops(inside: Mapping[str, Any], other: Judgement) -> list[Row]:
    known = inside.get("metrics", {})
    rows = []
    for name in FIGURES:
        outside = other.evaluation["metrics"][name]
        drop = difference_of_records(known.get(name), outside)
        flagged = drop.estimate is not None and drop.estimate > FLAG + 1e-9  # ten points are not more than ten
        figures = {"inside": known.get(name), "outside": outside, "drop": drop.as_dict()}
        rows.append({"data": other.name, "figure": name, "title": NAMES[name], **figures, "flagged": flagged})
    return [{**row, "flag": "more than 10 points" if row["flagged"] else ""} for row in rows]


def _facts(
    bundle: Bundle, own: Judgement | None, good: Sequence[Judgement], rename: Mapping[str, str | None]
) -> dict[str, Any]:
    positive = bundle.labels.positive
    facts = {"Classes": ", ".join(bundle.labels.names) + (f" (positive: {positive})" if positive else "")}
    facts["Inside figures"] = _inside(bundle, own)
    for one in good:
        failed, left_out = one.evaluation["n_failed"], len(one.left_out) + len(one.evaluation.get("excluded", ()))
        more = (f", {failed} failed" if failed else "") + (f", {left_out} left out" if left_out else "")
        facts[f"Images of {one.name}"] = f"{one.evaluation['n']} in {one.evaluation['n_groups']} groups{more}"
    if rename:
        facts["Labels"] = ", ".join(f"{label} → {name or 'left out'}" for label, name in rename.items())
    return facts | {"Weights SHA-256": (bundle.weights_sha256 or "")[:16]}


def _inside(bundle: Bundle, own: Judgement | None) -> str:
    if own is not None and own.evaluation:
        left = f"; {len(own.left_out)} that were learned from are left out" if own.left_out else ""
        return f"{own.evaluation['n']} images of the inside data given{left}"
    return f"{bundle.metrics['n']} images, as the bundle says" if bundle.metrics.get("n") else "none known"


def _answer(rows: Sequence[Row], good: Sequence[Judgement]) -> list[str]:
    sentences = []
    for one in good:
        own = {row["figure"]: row for row in rows if row["data"] == one.name}
        flagged = [own[name] for name in FIGURES if own[name]["flagged"]]
        for row in flagged:
            sentences.append(f"{one.name}: {row['title']} drops by {_points(row['drop'])}: {_told(row)}. Flagged.")
        if not flagged:
            known = [name for name in FIGURES if own[name]["drop"]["estimate"] is not None]
            said = f"no figure drops by more than 10 points ({_told(own['accuracy'])})" if known else "no drop can be given"
            sentences.append(f"{one.name}: {said}.")
    return sentences


def _points(drop: Mapping[str, Any]) -> str:
    spread = "" if drop["ci_low"] is None else f" (95 % interval {100 * drop['ci_low']:.1f} to {100 * drop['ci_high']:.1f})"
    return f"{100 * drop['estimate']:.1f} points{spread}"


def _told(row: Row) -> str:
    inside, outside = (None if row[key] is None else row[key]["estimate"] for key in ("inside", "outside"))
    words = ["not known" if value is None else f"{value:.3f}" for value in (inside, outside)]
    return f"{row['title']} {words[0]} inside, {words[1]} outside"


def _drop_table(rows: Sequence[Row]) -> Table:
    columns: dict[str, tuple[str, Any]] = {
        "data": ("Data", "text"),
        "title": ("Figure", "text"),
        "inside": ("inside", "estimate"),
        "outside": ("outside", "estimate"),
        "drop": ("drop", "test"),
        "flag": ("", "text"),
    }
    note = (
        "Drop: inside less outside. Accuracy also moves with the share of each class, which differs between data sets; "
        "sensitivity, specificity, balanced accuracy and AUROC do not. Interval of the drop: MOVER (Zou and Donner 2008) "
        "from the intervals of the two figures, which run over patients or twin groups."
    )
    return Table("drop", "Inside and outside", columns, rows, note)


def _labels(good: Sequence[Judgement]) -> Table:
    """How often each label of the other data, as it stood there, was called what it stands for."""
    columns: dict[str, tuple[str, Any]] = {"data": ("Data", "text"), "label": ("Label there", "text"), "n": ("images", "count")}
    columns["accuracy"] = ("called right", "estimate")
    rows = []
    for one in good:
        parts = one.evaluation.get("subgroups", {}).get("given_label", {})
        rows += [
            {"data": one.name, "label": label, "n": part["n"], "accuracy": part["metrics"]["accuracy"]}
            for label, part in parts.items()
        ]
    return Table("labels", "By label of the other data", columns, rows)


def _abstained(own: Judgement | None, good: Sequence[Judgement]) -> Table:
    """How often the bundle would rather not answer, where it has sets or a gate."""
    columns: dict[str, tuple[str, Any]] = {"data": ("Data", "text"), "abstained": ("abstained", "percent")}
    rows: list[Row] = []
    for one in ([own] if own and own.evaluation else []) + list(good):
        if abstains(one.evaluation):
            rows.append({"data": one.name, "abstained": one.evaluation["selective"]["n_abstained"] / one.evaluation["n"]})
    return Table("abstained", "Abstained", columns, rows, "All figures above are over all images, abstained ones included.")


def _differences(own: Judgement | None, good: Sequence[Judgement]) -> Iterator[Table]:
    columns: dict[str, tuple[str, Any]] = {
        "title": ("", "text"),
        "inside": ("inside", "text"),
        "outside": ("outside", "text"),
        "difference": ("difference", "number"),
        "ks": ("KS", "number"),
        "mark": ("", "text"),
    }
    note = (
        "Median (quartiles), or shares. Difference: outside less inside in pooled standard deviations, 0.8 and more is "
        "called large (Cohen 1988); for words half the summed differences of the shares. KS: the Kolmogorov–Smirnov "
        "statistic, 0 for equal and 1 for separate distributions. Grey values are those of the network's input."
    )
    for i, one in enumerate(good):
        rows = compared(own.images if own else (), one.images)
        said = [{**row, "mark": "large" if row["large"] else ""} for row in rows]
        images = f"{len(own.images) if own else 0} images inside, {len(one.images)} of {one.name}"
        name = f"differences-{i + 1}"
        yield Table(name, f"What differs: {one.name}", columns, said, f"{images}. {note}")


def _left_out(good: Sequence[Judgement]) -> Table:
    columns: dict[str, tuple[str, Any]] = {"data": ("Data", "text"), "reason": ("Why", "text"), "n": ("images", "count")}
    columns["first"] = ("The first", "text")
    rows: list[Row] = [
        {"data": one.name, **row} for one in good for row in by_reason([*one.left_out, *one.evaluation.get("excluded", ())])
    ]
    return Table("excluded", "Left out: learned from", columns, rows)


def _charts(
    own: Judgement | None, good: Sequence[Judgement], inside: Mapping[str, Any], rows: Sequence[Row]
) -> list[dict[str, Any]]:
    return [_interval_chart(inside, rows, name) for name in ("balanced_accuracy", "auroc")] + _grey_chart(own, good)


def _interval_chart(inside: Mapping[str, Any], rows: Sequence[Row], name: str) -> dict[str, Any]:
    own = inside.get("metrics", {}).get(name)
    entries = [("inside", own)] if own else []
    entries += [(row["data"], row["outside"]) for row in rows if row["figure"] == name]
    return {
        "kind": "intervals",
        "name": f"transfer-{name}",
        "title": NAMES[name],
        "axis": NAMES[name],
        "reference": None,
        "rows": [
            {"label": label, **{key: found[key] for key in ("estimate", "ci_low", "ci_high")}, "points": []}
            for label, found in entries
        ],
    }


def _grey_chart(own: Judgement | None, good: Sequence[Judgement]) -> list[dict[str, Any]]:
    measured = [one for one in ([own] if own else []) + list(good) if one.images]
    if not measured:
        return []
    centres = [(i + 0.5) / BINS for i in range(1, BINS - 1)]
    return [
        {
            "kind": "lines",
            "name": "grey",
            "title": "Grey values inside the head, without the blackest and the whitest 1/64",
            "axis_x": "grey value of the network's input",
            "axis_y": "share of the head's pixels",
            "reference": None,
            "series": [
                {"label": one.name, "x": centres, "y": histogram(one.images)[1:-1].tolist(), "low": None, "high": None}
                for one in measured
            ],
        }
    ]


def _flat(row: Row) -> Row:
    flat: Row = {"data": row["data"], "figure": row["figure"], "flagged": row["flagged"]}
    for key in ("inside", "outside", "drop"):
        found = row[key] or {}
        flat |= {key: found.get("estimate"), f"{key}_low": found.get("ci_low"), f"{key}_high": found.get("ci_high")}
    return flat


def _not_done(bundle: Bundle, own: Judgement | None, inside: Mapping[str, Any], good: Sequence[Judgement]) -> Iterator[str]:
    if own is not None and own.failure:
        yield f"The inside data could not be judged: {own.failure}"
    if not inside.get("metrics"):
        yield "No drop: the bundle holds no figures of its own test part. Give data like that learned from: --inside DATA."
    if own is None:
        yield "What differs is not compared, as no inside data was given: --inside DATA."
    for one in good:
        for name in FIGURES:
            found = Estimate(**one.evaluation["metrics"][name])
            if found.estimate is None or found.ci_low is None:
                yield f"{one.name}, {NAMES[name]}: {found.method}."
        distance = grey_distance(own.images, one.images) if own else None
        if own is not None and distance is None:
            yield f"{one.name}: no grey values to compare, as no head was found."
    if bundle.training_images is None:
        yield "Near copies of training images cannot be told, as this bundle holds no fingerprints of them."
