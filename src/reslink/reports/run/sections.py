"""What the page says, section by section, as plain values for the template."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from reslink.metrics.classification import NAMES
from reslink.reports.run.run_folder import Row, RunFolder, data_uri

HEADLINE = ("auroc", "accuracy", "sensitivity", "specificity", "ppv", "f1")
METHOD_NAMES = {
    "first_attention": "First attention α",
    "final_attention": "Final attention α",
    "grad_cam": "Grad-CAM",
    "centre": "Centre of the image (no knowledge)",
}
_SCORES = ("auroc", "accuracy")
_SPLIT_ORDER = ("train", "validation", "test")


def figure(value: float | None) -> str:
    """Returns a number with three decimals, or a dash where it is not defined."""
    return "–" if value is None else f"{value:.3f}".replace("-", "−")


def signed(value: float | None) -> str:
    """Returns a difference with its sign and three decimals, a dash where it is not defined."""
    return "–" if value is None else f"{value:+.3f}".replace("-", "−")


def interval(estimate: Mapping[str, Any]) -> str:
    """Returns an interval, or the reason why there is none."""
    low, high = estimate.get("ci_low"), estimate.get("ci_high")
    return "no interval" if low is None or high is None else f"{figure(low)} to {figure(high)}"


def headline(evaluation: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Returns the figures that stand first: name, estimate, and where the interval lies from 0 to 1, in percent."""
    metrics = (evaluation or {}).get("metrics", {})
    return [_card(NAMES[name], metrics[name]) for name in HEADLINE if name in metrics]


def _card(name: str, estimate: Mapping[str, Any]) -> dict[str, Any]:
    low, high = estimate.get("ci_low"), estimate.get("ci_high")
    bar = None
    if low is not None and high is not None:
        bar = {"x": round(100 * low, 2), "width": round(max(100 * (high - low), 0.8), 2)}
    dot = None if estimate.get("estimate") is None else round(100 * estimate["estimate"], 2)
    return {"name": name, "estimate": estimate, "bar": bar, "dot": dot}


def leaks(evaluation: Mapping[str, Any] | None) -> dict[str, str] | None:
    """Returns what to say of cases that are linked to the training data; None where none was found, or nobody looked."""
    found = (evaluation or {}).get("leakage") or {}
    titles = {"unknown": "not checked", "left out": "left out", "allowed": "leakage"}
    return {"status": titles[found["status"]], "message": found["message"]} if found.get("status") in titles else None


def class_names(files: RunFolder) -> list[str]:
    """Returns the class names in their order, from whatever part of the run states them."""
    if files.bundle is not None:
        return list(files.bundle["labels"])
    if files.predictions is not None:
        return list(files.predictions.names)
    return list((files.evaluation or {}).get("per_class", {}))


def facts(files: RunFolder) -> list[tuple[str, str]]:
    """Returns what to know before reading a figure: classes, cases judged, seed, variant."""
    config, bundle, evaluation = files.config or {}, files.bundle or {}, files.evaluation or {}
    names = class_names(files)
    rows = [("Classes", ", ".join(names) + (f" (positive: {names[-1]})" if len(names) == 2 else ""))] if names else []
    if "n" in evaluation:
        split = evaluation.get("split")
        rows.append(("Cases judged", f"{evaluation['n']}" + (f", split: {split}" if split else "")))
    if "n_groups" in evaluation:
        rows.append(("Patients or twin groups", str(evaluation["n_groups"])))
    if evaluation.get("bundle") and files.bundle is None:  # a run is its own model
        rows.append(("Model", evaluation["bundle"]))
    variant = (bundle.get("architecture") or {}).get("name") or (config.get("model") or {}).get("variant")
    rows += [("Network", str(variant))] if variant else []
    rows += [("Seed", str(config["seed"]))] if "seed" in config else []
    rows += [("Epochs", str(len(files.epochs)))] if files.epochs else []
    return rows


def confusion(evaluation: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Returns the confusion matrix with the share of each row, for shading."""
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
    """Returns the localisation table, or None where no case with a mask was judged."""
    found = (evaluation or {}).get("localization") or {}
    if not found.get("methods"):
        return None
    rows = [(METHOD_NAMES.get(name, name), values) for name, values in found["methods"].items()]
    return {"n": found["n"], "tolerance": found.get("tolerance_px"), "target": found.get("target"), "rows": rows}


def checks(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns the randomisation checks with the names of their maps."""
    return [{**check, "name": METHOD_NAMES.get(check["method"], check["method"])} for check in found]


def split_table(rows: Sequence[Row] | None) -> dict[str, Any] | None:
    """Returns images and groups by class and split, and how many groups, known patients among them, stand on two sides."""
    if not rows:
        return None
    splits = sorted({row["split"] for row in rows}, key=lambda s: (_SPLIT_ORDER.index(s) if s in _SPLIT_ORDER else 9, s))
    labels = sorted({row["label"] for row in rows})
    images: dict[tuple[str, str], int] = defaultdict(int)
    groups: dict[tuple[str, str], set[str]] = defaultdict(set)
    sides: dict[str, set[str]] = defaultdict(set)
    patients: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        for label in (row["label"], ""):
            images[label, row["split"]] += 1
            groups[label, row["split"]].add(row["group"])
        sides[row["group"]].add(row["split"])
        patients[row.get("patient_id") or f"image {row['sample_id']}"].add(row["split"])
    lines = [(label or "All", [(images[label, s], len(groups[label, s])) for s in splits]) for label in [*labels, ""]]
    shared = max(sum(len(side) > 1 for side in found.values()) for found in (sides, patients))
    return {"splits": splits, "lines": lines, "groups": len(sides), "images": len(rows), "shared": shared}


def flattened(tree: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Returns a tree of settings as rows of full key and value."""
    if isinstance(tree, Mapping):
        return [row for key, value in tree.items() for row in flattened(value, f"{prefix}.{key}" if prefix else str(key))]
    if not prefix:
        return []
    return [(prefix, ", ".join(map(str, tree)) if isinstance(tree, list) else "–" if tree is None else str(tree))]


def bundle_rows(bundle: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Returns what identifies the model: hash of the weights, architecture, preprocessing, decision, data, licence."""
    if bundle is None:
        return []
    weights, provenance = bundle.get("weights") or {}, bundle.get("provenance") or {}
    rows = [("weights sha256", str(weights.get("sha256", "–")))]
    for name in ("architecture", "preprocess", "decision"):
        rows += [(f"{name}.{key}", value) for key, value in flattened(bundle.get(name) or {})]
    for name in ("data", "licence", "intended_use"):
        rows += flattened({name: provenance[name]}) if provenance.get(name) is not None else []
    return rows


def columns(epochs: Sequence[Mapping[str, Any]], kind: str) -> dict[str, str]:
    """Returns the columns by epoch that a chart shows, and what their lines are called.

    Args:
        epochs: Rows by epoch.
        kind: ``loss`` for losses, ``score`` for the figures on the validation split.
    """
    keys = dict.fromkeys(key for row in epochs for key in row)
    if kind == "loss":
        return {key: _spoken(key.replace("loss", "")) or "loss" for key in keys if key.endswith("loss")}
    return {f"val_{name}": NAMES[name] for name in _SCORES if f"val_{name}" in keys}


def _spoken(key: str) -> str:
    words = key.replace("_", " ").replace(".", " ").replace("/", " ").split()
    return " ".join({"val": "validation", "train": "training"}.get(word, word) for word in words)


def gallery(files: RunFolder) -> list[dict[str, Any]]:
    """Returns the pictures with what ``gallery.json`` says of each; a picture that it does not name stands alone."""
    told = {case["file"]: case for case in files.gallery}
    return [{"address": data_uri(png), "case": told.get(name), "title": _words(name)} for name, png in files.pictures.items()]


def _words(name: str) -> str:
    words = name.removesuffix(".png").removeprefix("gallery").strip("_-0123456789").replace("_", " ")
    return words or "Right and wrong cases"
