"""The answers to the items of reporting checklists, one function per topic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from reslink.bundles.scope import refused_texts
from reslink.evaluation.selective import can_abstain, named_answers
from reslink.metrics.classification import METRIC_NAMES
from reslink.reports.checklist.evidence import Evidence
from reslink.reports.checklist.origin import EXTERNAL, Origin
from reslink.reports.formatting import format_interval, format_number
from reslink.reports.run.flow_diagram import case_flow
from reslink.reports.run.sections import class_names, group_name, split_groups, split_table


@dataclass(frozen=True)
class Answer:
    """An answer.

    Attributes:
        text: The answer from the files of the run; empty if they have none.
        missing: What is missing, and the command that adds it.
    """

    text: str
    missing: str = ""


def _setting(evidence: Evidence, name: str) -> dict[str, Any]:
    return (evidence.config or {}).get(name) or {}


def _technology(e: Evidence) -> Answer:
    name = (e.bundle.get("architecture") or {}).get("name")
    return Answer(f"Convolutional neural network with area attention ({name}), image classification" if name else "")


def _intended_use(e: Evidence) -> Answer:
    return Answer(str((e.bundle.get("provenance") or {}).get("intended_use") or ""))


def _data_source(e: Evidence) -> Answer:
    provenance = e.bundle.get("provenance") or {}
    data = provenance.get("data") or {}
    parts = [f"Data SHA-256 {data['digest']}" if data.get("digest") else "", f"license: {provenance.get('license')}"]
    return Answer("; ".join(part for part in parts if part) if provenance else "")


def _preprocessing(e: Evidence) -> Answer:
    p = e.bundle.get("preprocess") or {}
    if not {"window", "percentiles", "size", "channels", "mean", "std"} <= p.keys():
        return Answer(_pairs(p))
    window = f"{p['window']} window" if isinstance(p["window"], str) else f"window {p['window']} HU"
    head = "cropped to the head, background set to black" if p.get("isolate_head") else "the whole image"
    return Answer(
        f"CT: {window}; other images: gray values between percentiles {p['percentiles'][0]} and "
        f"{p['percentiles'][1]}; {head}; resized to {p['size']}×{p['size']} pixels, {p['channels']} channels; scaled to 0..1, "
        f"then normalized with mean {p['mean']} and standard deviation {p['std']}"
    )


def _classes(e: Evidence) -> Answer:
    names = class_names(e.run)
    positive = e.evaluation.get("positive")
    kind = "Labels, several of which can hold at once" if e.evaluation.get("by_label") else "Classes"
    return Answer(f"{kind}: {', '.join(names)}" + (f"; positive: {positive}" if positive else "") if names else "")


def _audit_identity(e: Evidence) -> Answer:
    if e.audit is None:
        return Answer("", "whether the files hold identifying data: run reslink audit and add its folder with --with")
    n_text = len(e.audit.get("burned_in_text") or ())
    n_attributes = len(e.audit.get("identity") or ())
    return Answer(
        f"The audit found burned-in text in {n_text} of {e.audit.get('images')} images and identifying attributes in "
        f"{n_attributes} files"
    )


def _audit_labels(e: Evidence) -> Answer:
    if e.audit is None:
        return Answer("", "likely label errors: run reslink audit and add its folder with --with")
    n_suspected, n_conflicts = (len(e.audit.get(key) or ()) for key in ("suspected_label_errors", "label_conflicts"))
    return Answer(
        f"The audit found {n_suspected} likely label errors and {n_conflicts} groups of near duplicates with different labels"
    )


def _failed(e: Evidence) -> Answer:
    n_failed = e.evaluation.get("n_failed", 0)
    texts = [f"{n_failed} images could not be read or predicted and were excluded", *refused_texts(e.evaluation)]
    return Answer("; ".join([*texts, "no values were imputed"]))


def _sizes(e: Evidence) -> Answer:
    groups = f"{e.evaluation.get('n_groups', '?')} {group_name(e.evaluation)}"
    evaluated = f"{e.evaluation['n']} images of {groups} were evaluated"
    return Answer("; ".join([evaluated, *refused_texts(e.evaluation)]))


_GROUPING: Final = {
    "both": "patients, with near duplicates joined",
    "patient": "patients",
    "duplicate": "groups of near duplicates",
    "scan": "patients, with near duplicates and probable scans joined",
    "none": "single images",
}


def _splits(e: Evidence) -> Answer:
    table = split_table(e.run.splits)
    if table is None:
        return Answer("", "the split: this folder has no splits.csv")
    counts = dict(zip(table["splits"], table["lines"][-1][1], strict=True))
    sizes = ", ".join(f"{name} {images} images in {groups} groups" for name, (images, groups) in counts.items())
    source = ((e.bundle.get("provenance") or {}).get("data") or {}).get("split_source")
    if source == "given":
        return Answer(f"Given by the data set: {sizes}")
    if source == "partly given":
        return Answer(f"Given by some of the data sets, drawn at random for the others: {sizes}; seed {e.config.get('seed')}")
    group_by = _setting(e, "data").get("group_by", "both")
    unit = _GROUPING.get(group_by, group_by)
    method = f"Random split of whole groups ({unit})" if not table["shared"] else f"Random split of {unit}"
    missing = "whether the split was given by the data set or drawn at random" if source is None else ""
    return Answer(f"{method}, stratified by class: {sizes}; seed {e.config.get('seed')}", missing)


def _disjoint(e: Evidence) -> Answer:
    table, leakage = split_table(e.run.splits), e.evaluation.get("leakage") or {}
    sentences = []
    if table is not None:
        shared = table["shared"]
        sentences.append(
            f"Of {table['groups']} {split_groups(e.config)}, {shared or 'none'} {'is' if shared == 1 else 'are'} "
            "in more than one split"
        )
    if leakage.get("message"):
        sentences.append(str(leakage["message"]))
    return Answer(". ".join(sentences), "" if sentences else "whether the splits are disjoint")


def _network(e: Evidence) -> Answer:
    return Answer(_pairs(e.bundle.get("architecture") or {}))


def _software(e: Evidence) -> Answer:
    return Answer(_pairs((e.run.environment or {}).get("versions") or (e.bundle.get("provenance") or {}).get("versions") or {}))


def _initialization(e: Evidence) -> Answer:
    seed = e.config.get("seed")
    return Answer(f"Random, seed {seed}; no pretrained weights" if seed is not None else "")


def _training(e: Evidence) -> Answer:
    trainer, optimizer, loss = (_setting(e, key) for key in ("trainer", "optimizer", "loss"))
    if not trainer:
        return Answer("")
    augment = {key: value for key, value in _setting(e, "augment").items() if value}
    return Answer(
        f"{trainer.get('epochs')} epochs, batch size {trainer.get('batch_size')}; {_pairs(optimizer)}; loss: {_pairs(loss)}; "
        f"augmentation: {_pairs(augment)}"
    )


def _pairs(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in settings.items())


def _selection(e: Evidence) -> Answer:
    export = _setting(e, "trainer").get("export")
    epoch = (e.bundle.get("provenance") or {}).get("epoch")
    rules = {"best": "The epoch with the best metric on the validation split", "last": "The last epoch"}
    return Answer(f"{rules.get(str(export), str(export))}: epoch {epoch}" if export else "")


def _ensemble(_: Evidence) -> Answer:
    return Answer("None; a single network")


def _metrics(e: Evidence) -> Answer:
    return Answer(", ".join(METRIC_NAMES.get(name, name) for name in e.evaluation.get("metrics", {})))


def _uncertainty(e: Evidence) -> Answer:
    estimates = e.evaluation.get("metrics", {}).values()
    methods = {str(estimate["method"]) for estimate in estimates if estimate.get("ci_low") is not None}
    return Answer("95 % intervals: " + "; ".join(sorted(methods)) if methods else "")


def _robustness(e: Evidence) -> Answer:
    experiment = e.experiments.get("robustness")
    if experiment is None:
        return Answer("", "robustness was not measured: run reslink experiment robustness and add its folder with --with")
    return Answer(" ".join(experiment.get("answer") or ()))


def _external(e: Evidence) -> Answer:
    evaluated = {name: other.origin for name, other in e.evaluations.items()}
    texts = [
        f"{name}: {_performance_text(e.evaluations[name].evaluation)}"
        if origin.kind == EXTERNAL
        else _not_external(name, origin)
        for name, origin in evaluated.items()
    ]
    if "external" in e.experiments:
        texts.append(" ".join(e.experiments["external"].get("answer") or ()))
        texts += [_not_external(name, origin) for name, origin in e.external_origins.items() if origin.kind != EXTERNAL]
    missing = "external data were not evaluated: run reslink external and add its folder with --with"
    origins = [*evaluated.values(), *e.external_origins.values()]
    return Answer(" ".join(texts), "" if any(origin.kind == EXTERNAL for origin in origins) else missing)


def _not_external(name: str, origin: Origin) -> str:
    return f"{name} is not external data ({origin.kind}: {origin.reason})."


def _explainability(e: Evidence) -> Answer:
    checks = e.run.randomization_checks
    methods = ", ".join(str(check["method"]) for check in checks)
    n_passed = sum(bool(check["passed"]) for check in checks)
    text = f"Maps: {methods}; {n_passed} of {len(checks)} pass the randomization check" if checks else ""
    n_masks = (e.evaluation.get("localization") or {}).get("n")
    return Answer(
        "; ".join(part for part in (text, f"localization measured on {n_masks} lesion masks" if n_masks else "") if part)
    )


def _flow(e: Evidence) -> Answer:
    return Answer("; ".join(f"{step.title}: {step.n_images}" for step in case_flow(e.run) if step.n_images is not None))


def _class_counts(e: Evidence) -> Answer:
    table = split_table(e.run.splits)
    if table is None:
        return Answer("")
    lines = [
        f"{label}: " + ", ".join(f"{name} {images}" for name, (images, _) in zip(table["splits"], cells, strict=True))
        for label, cells in table["lines"]
    ]
    return Answer("; ".join(lines))


def _performance(e: Evidence) -> Answer:
    return Answer(_performance_text(e.evaluation))


def _performance_text(evaluation: Mapping[str, Any]) -> str:
    metrics = evaluation.get("metrics", {})
    names = [name for name in ("accuracy", "sensitivity", "specificity", "ppv", "npv", "auroc") if name in metrics]
    texts = [
        f"{METRIC_NAMES[name]} {format_number(metrics[name]['estimate'])} ({format_interval(metrics[name])})" for name in names
    ]
    means = "means over the labels: " if evaluation.get("by_label") else ""
    return "; ".join([means + ", ".join(texts), *refused_texts(evaluation)])


def _failures(e: Evidence) -> Answer:
    counts = (e.evaluation.get("confusion_matrix") or {}).get("counts") or []
    n_wrong = sum(map(sum, counts)) - sum(row[i] for i, row in enumerate(counts))
    n_shown = sum(not case.get("correct", True) for case in e.run.gallery)
    text = f"{n_wrong} of {e.evaluation.get('n')} predictions are wrong; {n_shown} of them are shown, most confident first"
    return Answer(text if counts else "")


def _code(e: Evidence) -> Answer:
    version = ((e.bundle.get("provenance") or {}).get("versions") or {}).get("reslink")
    return Answer(f"reslink {version}, Apache-2.0; the settings are in config.yaml" if version else "")


def _version(e: Evidence) -> Answer:
    sha = (e.bundle.get("weights") or {}).get("sha256") or e.evaluation.get("bundle_sha256")
    return Answer(f"Weights SHA-256 {sha}" if sha else "")


def _index_test(e: Evidence) -> Answer:
    return Answer(". ".join(answer.text for answer in (_technology(e), _version(e), _preprocessing(e)) if answer.text))


def _threshold(e: Evidence) -> Answer:
    decision = e.evaluation.get("decision") or e.bundle.get("decision") or {}
    if not decision:
        return Answer("")
    if decision.get("by_label"):
        rules = zip(class_names(e.run), decision["by_label"], strict=True)
        shown = ", ".join(f"{name} {one['threshold']:.3f} ({one['threshold_source']})" for name, one in rules)
        return Answer(f"Each label is present from its own probability on: {shown}")
    if decision.get("threshold") is None:
        return Answer("The most probable class is predicted; there is no threshold")
    source = decision.get("threshold_source", "not stated")
    positive = e.evaluation.get("positive")
    return Answer(f"{positive} is predicted at a probability of {decision['threshold']:.3f} or more (threshold: {source})")


def _blinding(_: Evidence) -> Answer:
    return Answer("The network sees only the pixels: no clinical information and no result of another test")


def _abstention(e: Evidence) -> Answer:
    decision = e.bundle.get("decision") or {}
    parts = [decision, *decision.get("by_label", ())]
    if not can_abstain(e.evaluation) and any(part.get("conformal") or part.get("ood") for part in parts):
        return Answer(
            "The model was calibrated after these metrics were measured, so they know no abstention",
            "evaluate the run again with reslink evaluate, and write the report of that folder",
        )
    if not can_abstain(e.evaluation):
        return Answer("The model answers every case: it has no prediction sets and no out-of-distribution detector")
    n_abstained = e.evaluation["selective"]["n_abstained"]
    answers = [
        f"{name} {format_number(estimate['estimate'])} ({format_interval(estimate)})"
        for name, estimate in named_answers(e.evaluation["selective"]).items()
    ]
    included = f"The model abstained from {n_abstained} of {e.evaluation['n']} cases; the other metrics include them"
    return Answer("; ".join([included, *answers]))


def _subgroups(e: Evidence) -> Answer:
    columns = e.evaluation.get("subgroups") or {}
    if not columns:
        return Answer("", "subgroups were not evaluated: run reslink evaluate --by COLUMN")
    return Answer("; ".join(f"by {column}: {', '.join(values)}" for column, values in columns.items()))


def _cross_table(e: Evidence) -> Answer:
    matrix = e.evaluation.get("confusion_matrix") or {}
    names, counts = matrix.get("labels") or [], matrix.get("counts") or []
    cells = [f"true {a}, predicted {b}: {counts[i][j]}" for i, a in enumerate(names) for j, b in enumerate(names)]
    return Answer("; ".join(cells))


def _predictors(e: Evidence) -> Answer:
    is_series = (e.bundle.get("architecture") or {}).get("case") == "series"
    return Answer(f"All pixels of {'the slices of one series' if is_series else 'one slice'} after preprocessing; nothing else")


def _recalibration(e: Evidence) -> Answer:
    decision = e.bundle.get("decision") or {}
    fitted_on = decision.get("fitted_on")
    if not fitted_on:
        return Answer("Not recalibrated" if decision else "")
    method = _calibration(decision)
    if decision.get("by_label"):
        method = "; ".join(
            f"{name}: {_calibration(one)}" for name, one in zip(class_names(e.run), decision["by_label"], strict=True)
        )
    split = f" of the {fitted_on['split']} split" if fitted_on.get("split") else ""
    return Answer(f"{method}, fitted on {fitted_on['n_images']} images in {fitted_on['n_groups']} groups{split}")


def _calibration(decision: Mapping[str, Any]) -> str:
    return "Isotonic curve" if decision.get("isotonic") else f"Temperature {decision['temperature']:.3f}"


def _imbalance(e: Evidence) -> Answer:
    method = _setting(e, "loss").get("imbalance")
    return Answer("No correction for class imbalance" if method == "none" else f"Correction: {method}" if method else "")


ANSWERS: Final[dict[str, Callable[[Evidence], Answer]]] = {
    "technology": _technology,
    "intended_use": _intended_use,
    "data_source": _data_source,
    "preprocessing": _preprocessing,
    "classes": _classes,
    "audit_identity": _audit_identity,
    "audit_labels": _audit_labels,
    "failed": _failed,
    "sizes": _sizes,
    "splits": _splits,
    "disjoint": _disjoint,
    "network": _network,
    "software": _software,
    "initialization": _initialization,
    "training": _training,
    "selection": _selection,
    "ensemble": _ensemble,
    "metrics": _metrics,
    "uncertainty": _uncertainty,
    "robustness": _robustness,
    "explainability": _explainability,
    "external": _external,
    "flow": _flow,
    "class_counts": _class_counts,
    "performance": _performance,
    "failures": _failures,
    "code": _code,
    "version": _version,
    "index_test": _index_test,
    "threshold": _threshold,
    "blinding": _blinding,
    "abstention": _abstention,
    "subgroups": _subgroups,
    "cross_table": _cross_table,
    "predictors": _predictors,
    "recalibration": _recalibration,
    "imbalance": _imbalance,
}
"""The answer functions by the names that ``checklists.yaml`` uses under ``answer``."""
