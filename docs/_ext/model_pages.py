"""The pages of the models that ship with reslink, made from ``reslink models --json`` and their model cards."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

FOLDER = "models"
TITLES = {"accuracy": "accuracy", "sensitivity": "sensitivity (recall)", "specificity": "specificity", "auroc": "AUROC"}


def pages() -> dict[str, str]:
    """Returns a page for each model, and the table of the index."""
    command = [sys.executable, "-m", "reslink", "models", "--json", "--quiet"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 (our own words)
    models = json.loads(done.stdout)["models"]
    texts = {f"{FOLDER}/{model['name']}.md": _page(model) for model in models}
    texts["_generated/models.md"] = _index(models)
    return texts


def _page(model: dict[str, Any]) -> str:
    """Returns the page of a model: usage notes, facts, metrics, and the model card."""
    channels, height, width = model["input_shape"]
    facts = {
        "Classes": ", ".join(model["classes"]),
        "Images": model["modality"],
        "Input": f"{channels} × {height} × {width} pixels",
        "Parameters": f"{model['parameters']:,}",
        "Size": f"{model['bytes'] / 1e6:.1f} MB",
        "Out-of-distribution detector": "yes" if model["has_ood_detector"] else "none: the model answers to any image",
        "License of the weights": model["license"],
    }
    n_groups = model["n_groups"]
    card = (Path(model["folder"]) / "MODEL_CARD.md").read_text(encoding="utf-8")
    return "\n".join(
        [
            f"# {model['name']}: {model['title']}",
            "",
            f"Separates {model['task']}.",
            "",
            "```{warning}",
            model["usage_notes"],
            "```",
            "",
            "```bash",
            f"reslink predict {model['name']} scan.png",
            "```",
            "",
            "| | |",
            "|---|---|",
            *(f"| {key} | {value} |" for key, value in facts.items()),
            "",
            "## Metrics",
            "",
            f"Test images in {n_groups} groups (patients, near duplicates together); no group was used for training.",
            "",
            "| metric | estimate | 95 % interval | n |",
            "|---|---|---|---|",
            *(_metric_row(name, value) for name, value in model["metrics"].items()),
            "",
            _card_body(card),
        ]
    )


def _metric_row(name: str, value: dict[str, Any]) -> str:
    return f"| {TITLES.get(name, name)} | {_number(value['estimate'])} | {_interval(value)} | {value['n']} |"


def _outside(entry: dict[str, Any]) -> str:
    """Returns the accuracy of the images that are not refused, and the wrong answers as a share of all images."""
    return f"{_number(entry['accuracy'])} ({entry['n'] - entry['n_refused']}), {_number(entry['silent_errors'])}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _interval(value: dict[str, Any]) -> str:
    return "none" if value["ci_low"] is None else f"{value['ci_low']:.3f} to {value['ci_high']:.3f}"


def _card_body(card: str) -> str:
    """Returns a model card without its front matter and title; long JSON is folded."""
    body = re.sub(r"\A---\n.*?\n---\n", "", card, flags=re.DOTALL)
    body = re.sub(r"^# .*\n", "", body, count=1, flags=re.MULTILINE)
    body = re.sub(r"^\*\*Read this first\.\*\*.*\n", "", body, count=1, flags=re.MULTILINE)
    body = re.sub(r"```json\n(.*?)```", r":::{dropdown} JSON\n```json\n\1```\n:::", body, flags=re.DOTALL)
    return "## Model card\n" + re.sub(r"^## ", "### ", body, flags=re.MULTILINE)


def _index(models: list[dict[str, Any]]) -> str:
    """Returns the table of models and the table of contents of their pages."""
    names = ["model", "task", "AUROC (95 % interval)", "accuracy (95 % interval)"]
    names.append("other hospitals: accuracy (n), silent errors")
    lines = [f"| {' | '.join(names)} |", "|---|---|---|---|---|"]
    for model in models:
        cells = [
            f"{_number(value['estimate'])} ({_interval(value)})" if value else "–"
            for value in (model["metrics"].get("auroc"), model["metrics"].get("accuracy"))
        ]
        cells.append("; ".join(_outside(entry) for entry in model["ledger"] if not entry["seen"]) or "not evaluated")
        lines.append(f"| [`{model['name']}`](/models/{model['name']}.md) | {model['task']} | {' | '.join(cells)} |")
    return "\n".join(
        [*lines, "", "```{toctree}", ":hidden:", "", *(model["name"] for model in models), "weights-license", "```", ""]
    )
