"""What a run can say to an item of a reporting checklist: one function each, with what it cannot say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from reslink.metrics.classification import NAMES
from reslink.reports.checklist.evidence import Evidence
from reslink.reports.run.flow_diagram import abstains, flow_of
from reslink.reports.run.sections import class_names, figure, interval, split_table


@dataclass(frozen=True)
class Said:
    """An answer.

    Attributes:
        text: What the run says; empty for nothing.
        missing: What is missing, and the command that would give it.
    """

    text: str
    missing: str = ""


def _setting(evidence: Evidence, *keys: str) -> dict[str, Any]:
    found: Any = evidence.config
    for key in keys:
        found = (found or {}).get(key)
    return found or {}


def _technology(e: Evidence) -> Said:
    name = (e.bundle.get("architecture") or {}).get("name")
    return Said(f"Convolutional neural network with area attention ({name}), image classification" if name else "")


def _intended_use(e: Evidence) -> Said:
    return Said(str((e.bundle.get("provenance") or {}).get("intended_use") or ""))


def _data_source(e: Evidence) -> Said:
    provenance = e.bundle.get("provenance") or {}
    data = provenance.get("data") or {}
    parts = [f"Data SHA-256 {data['digest']}" if data.get("digest") else "", f"licence: {provenance.get('licence')}"]
    return Said("; ".join(part for part in parts if part) if provenance else "")


def _preprocessing(e: Evidence) -> Said:
    p = e.bundle.get("preprocess") or {}
    if not {"window", "percentiles", "size", "channels", "mean", "std"} <= p.keys():
        return Said(_pairs(p))
    head = "what is not head is set to black and the image cut to the head" if p.get("isolate_head") else "the whole image"
    return Said(
        f"Window for CT in HU: {p['window']}; otherwise grey values between percentiles {p['percentiles'][0]} and "
        f"{p['percentiles'][1]}; {head}; square, {p['size']}×{p['size']} pixels, {p['channels']} channels; "
        f"mean {p['mean']} and standard deviation {p['std']} after scaling to 0..1"
    )


def _classes(e: Evidence) -> Said:
    names = class_names(e.run)
    positive = e.evaluation.get("positive")
    return Said(f"Classes: {', '.join(names)}" + (f"; positive: {positive}" if positive else "") if names else "")


def _audit_identity(e: Evidence) -> Said:
    if e.audit is None:
        return Said("", "reslink audit tells whether the files hold names: --with its folder")
    text = len(e.audit.get("burned_in_text") or ())
    marked = len(e.audit.get("identity") or ())
    images = e.audit.get("images")
    return Said(f"The audit found text burned into {text} of {images} images, and identifying attributes in {marked} files")


def _audit_labels(e: Evidence) -> Said:
    if e.audit is None:
        return Said("", "reslink audit tells which labels are doubtful: --with its folder")
    suspected, conflicts = (len(e.audit.get(key) or ()) for key in ("suspected_label_errors", "label_conflicts"))
    return Said(f"The audit suspects {suspected} labels and found {conflicts} sets of copies under two labels")


def _failed(e: Evidence) -> Said:
    failed = e.evaluation.get("n_failed", 0)
    return Said(f"{failed} images could not be read or judged and were left out; nothing was imputed")


def _sizes(e: Evidence) -> Said:
    return Said(f"{e.evaluation['n']} images of {e.evaluation.get('n_groups', '?')} patients or twin groups were judged")


def _partition(e: Evidence) -> Said:
    table = split_table(e.run.splits)
    if table is None:
        return Said("", "the partition, as this folder holds no splits.csv")
    cells = dict(zip(table["splits"], table["lines"][-1][1], strict=True))
    shares = ", ".join(f"{name} {n} images in {groups} groups" for name, (n, groups) in cells.items())
    given = ((e.bundle.get("provenance") or {}).get("data") or {}).get("division")
    if given == "given":
        return Said(f"As the data set states: {shares}")
    by = _setting(e, "data").get("group_by", "both")
    how = f"By whole groups ({_GROUPS.get(by, by)})" if not table["shared"] else f"Drawn by {_GROUPS.get(by, by)}"
    return Said(f"{how}, classes in their shares: {shares}; seed {e.config.get('seed')}", _UNKNOWN if given is None else "")


_UNKNOWN: Final = "whether the data set stated this division or it was drawn: this run does not say"

_GROUPS: Final = {
    "both": "patients and near copies joined",
    "patient": "patients",
    "twin": "near copies",
    "none": "single images",
}


def _disjoint(e: Evidence) -> Said:
    table, leakage = split_table(e.run.splits), e.evaluation.get("leakage") or {}
    parts = []
    if table is not None:
        shared = table["shared"]
        parts.append("No patient or twin group stands on two sides" if not shared else f"{shared} groups stand on two sides")
    if leakage.get("message"):
        parts.append(str(leakage["message"]))
    return Said("; ".join(parts), "" if parts else "whether partitions are disjoint")


def _network(e: Evidence) -> Said:
    a = e.bundle.get("architecture") or {}
    return Said(", ".join(f"{key} {value}" for key, value in a.items()))


def _software(e: Evidence) -> Said:
    versions = (e.run.environment or {}).get("versions") or (e.bundle.get("provenance") or {}).get("versions") or {}
    return Said(", ".join(f"{name} {version}" for name, version in versions.items()))


def _initialisation(e: Evidence) -> Said:
    seed = e.config.get("seed")
    return Said(f"Random, seed {seed}; no pretrained weights" if seed is not None else "")


def _training(e: Evidence) -> Said:
    trainer, optimizer, loss = (_setting(e, key) for key in ("trainer", "optimizer", "loss"))
    if not trainer:
        return Said("")
    augment = {key: value for key, value in _setting(e, "augment").items() if value}
    return Said(
        f"{trainer.get('epochs')} epochs, batches of {trainer.get('batch_size')}; {_pairs(optimizer)}; loss: {_pairs(loss)}; "
        f"augmentation: {_pairs(augment)}"
    )


def _pairs(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in settings.items())


def _selection(e: Evidence) -> Said:
    export = _setting(e, "trainer").get("export")
    epoch = (e.bundle.get("provenance") or {}).get("epoch")
    how = {"best": "The epoch with the best figure on the validation part", "last": "The last epoch"}
    return Said(f"{how.get(str(export), str(export))}: epoch {epoch}" if export else "")


def _ensemble(_: Evidence) -> Said:
    return Said("None; one network")


def _metrics(e: Evidence) -> Said:
    return Said(", ".join(NAMES.get(name, name) for name in e.evaluation.get("metrics", {})))


def _uncertainty(e: Evidence) -> Said:
    methods = {str(found["method"]) for found in e.evaluation.get("metrics", {}).values() if found.get("ci_low") is not None}
    return Said("95 % intervals: " + "; ".join(sorted(methods)) if methods else "")


def _study(e: Evidence, name: str, command: str) -> Said:
    study = e.studies.get(name)
    if study is None:
        return Said("", f"nothing was measured: {command}, then --with its folder")
    return Said(" ".join(study.get("answer") or ()))


def _robustness(e: Evidence) -> Said:
    return _study(e, "robustness", "reslink study robustness")


def _outside(e: Evidence) -> Said:
    texts = [f"{name}: {_figures_of(found)}" for name, found in e.outside.items()]
    if "transfer" in e.studies:
        texts.append(_study(e, "transfer", "").text)
    return Said(" ".join(texts), "" if texts else "no outside data was judged: reslink study transfer, then --with its folder")


def _explainability(e: Evidence) -> Said:
    maps = [str(case["method"]) for case in e.run.sanity]
    passed = sum(bool(case["passed"]) for case in e.run.sanity)
    text = f"Maps: {', '.join(maps)}; {passed} of {len(maps)} pass the randomisation check" if maps else ""
    found = e.evaluation.get("localization") or {}
    return Said(text + (f"; measured against {found['n']} lesion masks" if found.get("n") else ""))


def _flow(e: Evidence) -> Said:
    return Said("; ".join(f"{box.title}: {box.count}" for box in flow_of(e.run) if box.count is not None))


def _partition_table(e: Evidence) -> Said:
    table = split_table(e.run.splits)
    if table is None:
        return Said("")
    lines = [
        f"{label}: " + ", ".join(f"{name} {n}" for name, (n, _) in zip(table["splits"], cells, strict=True))
        for label, cells in table["lines"]
    ]
    return Said("; ".join(lines))


def _figures(e: Evidence) -> Said:
    return Said(_figures_of(e.evaluation))


def _figures_of(evaluation: Mapping[str, Any]) -> str:
    wanted = ("accuracy", "sensitivity", "specificity", "ppv", "npv", "auroc")
    found = {name: value for name, value in evaluation.get("metrics", {}).items() if name in wanted}
    return ", ".join(f"{NAMES[name]} {figure(value['estimate'])} ({interval(value)})" for name, value in found.items())


def _failures(e: Evidence) -> Said:
    counts = (e.evaluation.get("confusion_matrix") or {}).get("counts") or []
    wrong = sum(map(sum, counts)) - sum(row[i] for i, row in enumerate(counts))
    shown = sum(not case.get("right", True) for case in e.run.gallery)
    return Said(f"{wrong} of {e.evaluation.get('n')} cases are wrong; the surest {shown} are shown" if counts else "")


def _code(e: Evidence) -> Said:
    version = ((e.bundle.get("provenance") or {}).get("versions") or {}).get("reslink")
    return Said(f"reslink {version}, Apache-2.0; the settings stand in config.yaml" if version else "")


def _version(e: Evidence) -> Said:
    sha = (e.bundle.get("weights") or {}).get("sha256") or e.evaluation.get("bundle_sha256")
    return Said(f"Weights SHA-256 {sha}" if sha else "")


def _index_test(e: Evidence) -> Said:
    parts = [said.text for said in (_technology(e), _version(e), _preprocessing(e)) if said.text]
    return Said(". ".join(parts))


def _threshold(e: Evidence) -> Said:
    decision = e.evaluation.get("decision") or e.bundle.get("decision") or {}
    if not decision:
        return Said("")
    if decision.get("threshold") is None:
        return Said("The most probable class is called; no threshold")
    positive = e.evaluation.get("positive")
    source = decision.get("threshold_source", "not stated")
    return Said(f"{positive} is called from a probability of {decision['threshold']:.3f} on; chosen by: {source}")


def _blinding(_: Evidence) -> Said:
    return Said("The network sees the pixels alone: no clinical information and no result of another test")


def _abstained(e: Evidence) -> Said:
    found = e.evaluation.get("selective") or {}
    if not abstains(e.evaluation):
        return Said("The network always answers: nothing to abstain by was fitted (reslink calibrate)")
    return Said(f"{found['n_abstained']} of {e.evaluation['n']} cases were abstained from; all figures are over all cases")


def _subgroups(e: Evidence) -> Said:
    columns = e.evaluation.get("subgroups") or {}
    if not columns:
        return Said("", "no subgroup was judged: reslink evaluate --by COLUMN")
    return Said("; ".join(f"by {column}: {', '.join(values)}" for column, values in columns.items()))


def _cross_table(e: Evidence) -> Said:
    found = e.evaluation.get("confusion_matrix") or {}
    names, counts = found.get("labels") or [], found.get("counts") or []
    cells = [f"true {a} called {b}: {counts[i][j]}" for i, a in enumerate(names) for j, b in enumerate(names)]
    return Said("; ".join(cells))


def _predictors(_: Evidence) -> Said:
    return Said("All pixels of one slice after preprocessing; nothing else")


def _recalibration(e: Evidence) -> Said:
    decision = e.bundle.get("decision") or {}
    fitted = decision.get("fitted_on")
    if not fitted:
        return Said("Not recalibrated" if decision else "")
    how = "Isotonic curve" if decision.get("isotonic") else f"Temperature {decision['temperature']:.3f}"
    part = f" of the part «{fitted['split']}»" if fitted.get("split") else ""
    return Said(f"{how}, fitted on {fitted['n_images']} images in {fitted['n_groups']} groups{part}")


def _imbalance(e: Evidence) -> Said:
    how = _setting(e, "loss").get("imbalance")
    return Said("Nothing was done about it" if how == "none" else f"Handled by: {how}" if how else "")


FACTS: Final[dict[str, Callable[[Evidence], Said]]] = {
    "technology": _technology,
    "intended_use": _intended_use,
    "data_source": _data_source,
    "preprocessing": _preprocessing,
    "classes": _classes,
    "audit_identity": _audit_identity,
    "audit_labels": _audit_labels,
    "failed": _failed,
    "sizes": _sizes,
    "partition": _partition,
    "disjoint": _disjoint,
    "network": _network,
    "software": _software,
    "initialisation": _initialisation,
    "training": _training,
    "selection": _selection,
    "ensemble": _ensemble,
    "metrics": _metrics,
    "uncertainty": _uncertainty,
    "robustness": _robustness,
    "explainability": _explainability,
    "outside": _outside,
    "flow": _flow,
    "partition_table": _partition_table,
    "figures": _figures,
    "failures": _failures,
    "code": _code,
    "version": _version,
    "index_test": _index_test,
    "threshold": _threshold,
    "blinding": _blinding,
    "abstained": _abstained,
    "subgroups": _subgroups,
    "cross_table": _cross_table,
    "predictors": _predictors,
    "recalibration": _recalibration,
    "imbalance": _imbalance,
}
"""The answers by the names that ``checklists.yaml`` uses."""
