"""The data of each section of a run report, as plain values for the template."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

from reslink.bundles.lineage import Ancestor
from reslink.datasets.case import MAX_SOURCES, UNUSED
from reslink.datasets.grouping import GROUP_NAMES
from reslink.evaluation.selective import can_abstain, named_answers
from reslink.metrics.classification import METRIC_NAMES
from reslink.reports.formatting import format_number, start_sentence
from reslink.reports.run.run_folder import Row, RunFolder, data_uri
from reslink.settings_text import flatten
from reslink.training.run_folder import STATE_COLUMN

HEADLINE_METRICS = ("auroc", "accuracy", "sensitivity", "specificity", "ppv", "f1")
METHOD_NAMES = {
    "first_attention": "First attention α",
    "final_attention": "Final attention α",
    "grad_cam": "Grad-CAM",
    "center": "Center of the image (baseline)",
}
_SCORES = ("auroc", "accuracy")
_SPLIT_ORDER = ("train", "validation", "test")
_LEAKAGE_TITLES = {"unknown": "Leakage not checked", "excluded": "Leaked cases excluded", "allowed": "Leakage"}


def headline_metrics(evaluation: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Returns name, estimate and position (0 to 1, in percent) of estimate and interval of the most important metrics."""
    metrics = (evaluation or {}).get("metrics", {})
    return [_card(METRIC_NAMES[name], metrics[name]) for name in HEADLINE_METRICS if name in metrics]


def answer_cards(evaluation: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Returns the answers of a model that can abstain as :func:`headline_metrics`; empty if it cannot."""
    if evaluation is None or not can_abstain(evaluation):
        return []
    return [_card(name, estimate) for name, estimate in named_answers(evaluation["selective"]).items()]


def group_name(evaluation: Mapping[str, Any] | None) -> str:
    """Returns what the groups of an evaluation are, by its ``group_by``, such as ``patients or duplicate groups``."""
    return GROUP_NAMES[(evaluation or {}).get("group_by") or "both"]


def split_groups(config: Mapping[str, Any] | None) -> str:
    """Returns what the groups of a split are, by ``data.group_by`` of the recipe."""
    return GROUP_NAMES[((config or {}).get("data") or {}).get("group_by") or "both"]


def _card(name: str, estimate: Mapping[str, Any]) -> dict[str, Any]:
    low, high = estimate.get("ci_low"), estimate.get("ci_high")
    bar = None
    if low is not None and high is not None:
        bar = {"x": round(100 * low, 2), "width": round(max(100 * (high - low), 0.8), 2)}
    dot = None if estimate.get("estimate") is None else round(100 * estimate["estimate"], 2)
    return {"name": name, "estimate": estimate, "bar": bar, "dot": dot}


def leakage_notice(evaluation: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Returns ``title``, ``message``, ``allowed`` and ``excluded`` about leakage; None if none was found."""
    leakage = (evaluation or {}).get("leakage") or {}
    status = leakage.get("status")
    if status not in _LEAKAGE_TITLES:
        return None
    return {
        "title": _LEAKAGE_TITLES[status],
        "message": leakage["message"],
        "allowed": status == "allowed",
        "excluded": status == "excluded",
    }


def class_names(files: RunFolder) -> list[str]:
    """Returns the class names in their order, from the bundle, the predictions or the evaluation."""
    if files.bundle is not None:
        return list(files.bundle["labels"])
    if files.predictions is not None:
        return list(files.predictions.names)
    return list((files.evaluation or {}).get("per_class", {}))


def facts(files: RunFolder) -> list[tuple[str, str]]:
    """Returns the facts at the top of the page: classes, numbers of cases, model, seed, epochs."""
    config, bundle, evaluation = files.config or {}, files.bundle or {}, files.evaluation or {}
    names = class_names(files)
    several = bool((files.evaluation or {}).get("by_label")) or not (files.bundle or {}).get("exclusive", True)
    positive = f" (positive: {names[-1]})" if len(names) == 2 and not several else ""
    rows = [("Labels" if several else "Classes", ", ".join(names) + positive)] if names else []
    if "n" in evaluation:
        split = evaluation.get("split")
        rows.append(("Evaluated cases", f"{evaluation['n']}" + (f" ({split} split)" if split else "")))
    if "n_groups" in evaluation:
        rows.append((start_sentence(group_name(evaluation)), str(evaluation["n_groups"])))
    if files.bundle is None:  # the report of a run states the model and its data elsewhere
        rows += _evaluation_facts(evaluation)
    variant = (bundle.get("architecture") or {}).get("name") or (config.get("model") or {}).get("variant")
    rows += [("Network", str(variant))] if variant else []
    ancestors = [str(Ancestor(**row)) for row in bundle.get("lineage") or ()]
    rows += [("Fine-tuned from", ", which was fine-tuned from ".join(ancestors))] if ancestors else []
    rows += _data_facts(files)
    rows += [("Seed", str(config["seed"]))] if "seed" in config else []
    rows += [("Epochs", str(len(files.epochs)) + _extensions(bundle))] if files.epochs else []
    return rows


def _evaluation_facts(evaluation: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns what was evaluated on what, and when."""
    keys = {"bundle": "Model", "bundle_sha256": "Weights SHA-256", "data": "Data set", "date": "Date"}
    rows = [(title, str(evaluation[key])) for key, title in keys.items() if evaluation.get(key)]
    return [(title, text[:16] if title == keys["bundle_sha256"] else text) for title, text in rows]


def title(files: RunFolder) -> str:
    """Returns the title of the page: model and data set of an evaluation, or the name of the folder."""
    evaluation = files.evaluation or {}
    if files.bundle is None and evaluation.get("bundle") and evaluation.get("data"):
        return f"{evaluation['bundle']} on {evaluation['data']}"
    return files.name


def _extensions(bundle: Mapping[str, Any]) -> str:
    """Returns after which epochs a finished run was extended, to be put behind their number."""
    extensions = (bundle.get("provenance") or {}).get("extensions") or []
    return f" (extended after epoch {', '.join(str(row['after_epoch']) for row in extensions)})" if extensions else ""


_SPLIT_SOURCES: Final = {
    "given": "; stated by the data",
    "drawn": "; drawn",
    "partly given": "; stated by some of the data sets, drawn for the others",
}


def _data_facts(files: RunFolder) -> list[tuple[str, str]]:
    """Returns the split that was used, and which columns of the table were used for what."""
    data = _data_provenance(files)
    columns = (files.evaluation or {}).get("columns") or data.get("columns") or {}
    rows = []
    if table := split_table(files.splits):
        shares = (images / table["images"] for images, _ in table["lines"][-1][1])
        parts = ", ".join(f"{name} {100 * share:.0f} %" for name, share in zip(table["splits"], shares, strict=True))
        rows.append(("Split", parts + _SPLIT_SOURCES.get(str(data.get("split_source")), "")))
    rows += [("Labels", _label_change(change)) for change in data.get("label_changes") or ()]
    sources = data.get("sources") or {}
    if 1 < len(sources) <= MAX_SOURCES:
        images = (f"{name} ({', '.join(f'{split} {n}' for split, n in counts.items())})" for name, counts in sources.items())
        rows.append(("Sources", ", ".join(images)))
    if any(header.casefold() != role for role, header in columns.items()):
        rows.append(("Columns", ", ".join(f"{role}: {header}" for role, header in columns.items())))
    return rows


def _label_change(change: Mapping[str, Any]) -> str:
    """Returns what changed the labels of the data, as :attr:`reslink.datasets.manifest.Manifest.label_changes` states it."""
    if change["by"] == "corrections":
        return f"{change['labels']} corrected by {change['file']} (SHA-256 {change['sha256'][:16]})"
    classes = ", ".join(f"{label} → {name or 'excluded'}" for label, name in change["classes"].items())
    prefix = f"{change['set']}: " if "set" in change else ""
    return f"{prefix}{change['labels']} mapped ({classes})"


def _data_provenance(files: RunFolder) -> Mapping[str, Any]:
    provenance = (files.bundle or {}).get("provenance") or {}
    return provenance.get("data") or {}


def run_settings(files: RunFolder) -> list[tuple[str, str]]:
    """Returns the settings of a run; without the shares of the splits if the data stated the split or it has folds."""
    rows = flatten_settings(files.config)
    folds = ((files.config or {}).get("data") or {}).get("folds")
    unused = _data_provenance(files).get("split_source") == "given" or folds is not None
    return [row for row in rows if not (unused and row[0] == "data.fractions")]


def confusion_matrix(evaluation: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Returns the confusion matrix with the share of each cell in its row, for shading."""
    table = (evaluation or {}).get("confusion_matrix")
    if not table:
        return None
    names, counts = table["labels"], table["counts"]
    rows = [
        {"name": name, "cells": [{"count": c, "share": c / sum(row) if sum(row) else 0.0} for c in row]}
        for name, row in zip(names, counts, strict=True)
    ]
    return {"names": list(names), "rows": rows}


def localization(evaluation: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Returns the localization table, or None if no evaluated case has a lesion mask."""
    result = (evaluation or {}).get("localization") or {}
    if not result.get("methods"):
        return None
    rows = [(METHOD_NAMES.get(name, name), values) for name, values in result["methods"].items()]
    below = [name for name, values in rows if _points_below_center(values, result["methods"])]
    return {
        "n": result["n"],
        "tolerance": result.get("tolerance_px"),
        "target": result.get("target"),
        "rows": rows,
        "below": below,
    }


def _points_below_center(values: Mapping[str, Any], methods: Mapping[str, Any]) -> bool:
    """Whether a map points at lesions less often than the center of the image does."""
    own, center = (of.get("pointing_game", {}).get("estimate") for of in (values, methods.get("center", {})))
    return own is not None and center is not None and own < center


def randomization_checks(checks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns the randomization checks with the names of their maps."""
    return [{**check, "name": METHOD_NAMES.get(check["method"], check["method"])} for check in checks]


def split_table(rows: Sequence[Row] | None) -> dict[str, Any] | None:
    """Returns the split table of ``splits.csv``; None without it.

    Returns:
        ``splits`` (their names), ``lines`` (by class, then for all classes, the numbers of images and groups in each split),
        ``images``, ``groups``, and ``shared``: the number of groups or patients in more than one split.
    """
    if not rows:
        return None
    splits = sorted({row["split"] for row in rows}, key=lambda s: (_SPLIT_ORDER.index(s) if s in _SPLIT_ORDER else 9, s))
    several = [column for column in rows[0] if column.startswith(STATE_COLUMN)]
    labels = [column.removeprefix(STATE_COLUMN) for column in several] or sorted({row["label"] for row in rows})
    images: dict[tuple[str, str], int] = defaultdict(int)
    groups: dict[tuple[str, str], set[str]] = defaultdict(set)
    splits_of_group: dict[str, set[str]] = defaultdict(set)
    splits_of_patient: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        present = [column.removeprefix(STATE_COLUMN) for column in several if row[column] == "1"]
        for label in (*(present if several else [row["label"]]), ""):
            images[label, row["split"]] += 1
            groups[label, row["split"]].add(row["group"])
        if row["split"] != UNUSED:
            splits_of_group[row["group"]].add(row["split"])
            splits_of_patient[row.get("patient_id") or f"image {row['sample_id']}"].add(row["split"])
    lines = [(label or "All", [(images[label, s], len(groups[label, s])) for s in splits]) for label in [*labels, ""]]
    shared = max(sum(len(names) > 1 for names in by_key.values()) for by_key in (splits_of_group, splits_of_patient))
    return {
        "splits": splits,
        "lines": lines,
        "groups": len({row["group"] for row in rows}),
        "images": len(rows),
        "shared": shared,
    }


def flatten_settings(tree: Any) -> list[tuple[str, str]]:
    """Returns nested settings as rows of full key and value."""
    return [(key, _setting_text(value)) for key, value in flatten(tree)] if isinstance(tree, Mapping) else []


def _setting_text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else "–" if value is None else str(value)


def bundle_settings(bundle: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Returns the identity of the model: hash of the weights, architecture, preprocessing, decision, data, license."""
    if bundle is None:
        return []
    weights, provenance = bundle.get("weights") or {}, bundle.get("provenance") or {}
    rows = [("weights sha256", str(weights.get("sha256", "–")))]
    sections = {name: bundle.get(name) or {} for name in ("architecture", "preprocess")}
    for name, section in (sections | {"decision": _rounded(bundle.get("decision") or {})}).items():
        rows += [(f"{name}.{key}", value) for key, value in flatten_settings(section)]
    for name in ("data", "license", "intended_use"):
        rows += flatten_settings({name: provenance[name]}) if provenance.get(name) is not None else []
    return rows


def _rounded(value: Any) -> Any:
    """Returns numbers, also in lists and mappings, with three decimals, as everywhere on the page."""
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return format_number(value) if isinstance(value, float) else value


def learning_curve_columns(epochs: Sequence[Mapping[str, Any]], kind: str) -> dict[str, str]:
    """Returns the columns of a learning curve chart, with the labels of their lines.

    Args:
        epochs: Rows by epoch.
        kind: ``loss`` for losses, ``score`` for the metrics of the validation split.
    """
    keys = dict.fromkeys(key for row in epochs for key in row)
    if kind == "loss":
        return {key: _label(key.replace("loss", "")) or "loss" for key in keys if key.endswith("loss")}
    return {f"val_{name}": METRIC_NAMES[name] for name in _SCORES if f"val_{name}" in keys}


def _label(key: str) -> str:
    words = key.replace("_", " ").replace(".", " ").replace("/", " ").split()
    return " ".join({"val": "validation", "train": "training"}.get(word, word) for word in words)


def gallery(files: RunFolder) -> list[dict[str, Any]]:
    """Returns the pictures with their cases from ``gallery.json``; a picture without an entry has the case None."""
    case_of = {case["file"]: case for case in files.gallery}
    return [
        {"address": data_uri(png), "case": case_of.get(name), "title": _picture_title(name)}
        for name, png in files.pictures.items()
    ]


def _picture_title(file_name: str) -> str:
    words = file_name.removesuffix(".png").removeprefix("gallery").strip("_-0123456789").replace("_", " ")
    return words or "Correct and wrong cases"
