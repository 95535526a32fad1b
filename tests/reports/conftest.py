"""The folder of a finished run, tiny and without a network."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image as Picture

from reslink.metrics.classification import classification_metrics, confusion_matrix


def table(rows: list[dict[str, Any]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def png(path: Path, shape: tuple[int, int] = (32, 100)) -> None:
    Picture.fromarray(np.random.default_rng(1).integers(0, 255, shape).astype(np.uint8)).save(path)


def image_hash(folder: Path, i: int) -> str:
    """The SHA-256 of an image; runs in folders of other names have other images."""
    return hashlib.sha256(f"{folder.name}/{i}".encode()).hexdigest()


def write_run(folder: Path, names: tuple[str, ...] = ("Healthy", "Tumor"), n: int = 60) -> Path:
    """Writes every file that a report can use."""
    rng = np.random.default_rng(0)
    y_true = rng.integers(0, len(names), n)
    scores = rng.random((n, len(names))) + 0.4 * np.eye(len(names))[y_true]
    y_prob = scores / scores.sum(axis=1, keepdims=True)
    y_pred = y_prob.argmax(axis=1)
    groups = [f"patient {i // 2}" for i in range(n)]
    metrics, per_class = classification_metrics(y_true, y_prob, y_pred, groups, names, draws=100)
    (folder / "figures").mkdir(parents=True)
    (folder / "bundle").mkdir()
    evaluation = {
        "n": n,
        "n_groups": n // 2,
        "labels": list(names),
        "positive": names[-1] if len(names) == 2 else None,
        "metrics": {name: value.as_dict() for name, value in metrics.items()},
        "per_class": {name: {k: v.as_dict() for k, v in values.items()} for name, values in per_class.items()},
        "confusion_matrix": {"labels": list(names), "counts": confusion_matrix(y_true, y_pred, len(names))},
        "localization": {
            "n": 20,
            "tolerance_px": 15,
            "target": names[-1],
            "methods": {
                "final_attention": {
                    key: {"estimate": 0.8125, "ci_low": 0.7, "ci_high": 0.9, "method": "bootstrap", "n": 20}
                    for key in ("pointing_game", "energy_inside", "iou")
                }
            },
        },
        "split": "test",
        "n_failed": 0,
        "failed": {},
    }
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    predictions = [
        {"sample_id": f"images/{i}.png", "label": names[y_true[i]], "prediction": names[y_pred[i]], "group": groups[i]}
        | {f"p_{name}": repr(float(y_prob[i, k])) for k, name in enumerate(names)}
        | {"sha256": image_hash(folder, i)}
        for i in range(n)
    ]
    (folder / "predictions.csv").write_text(table(predictions))
    splits = [
        {
            "sample_id": f"images/{i}.png",
            "patient_id": "",
            "label": names[i % len(names)],
            "split": ("train", "train", "validation", "test")[i // 2 % 4],
            "group": f"patient {i // 2}",
            "sha256": image_hash(folder, i),
        }
        for i in range(80)
    ]
    (folder / "splits.csv").write_text(table(splits))
    rows = [
        {"kind": "epoch", "epoch": e, "train_loss": 1 / e, "val_loss": 1.2 / e, "val_auroc": 1 - 0.3 / e} for e in (1, 2, 3)
    ]
    finding = {
        "kind": "finding",
        "code": "gap",
        "message": "The loss of validation rises",
        "advice": "Use more augmentation",
        "epoch": 2,
    }
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, finding, finding]))
    config = {"seed": 7, "model": {"variant": "reslink_small", "dims": None}, "data": {"fractions": [0.7, 0.15, 0.15]}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "environment.json").write_text(json.dumps({"versions": {"torch": "2.13.0"}, "device": "cpu"}))
    bundle = {
        "labels": list(names),
        "architecture": {"name": "reslink_small", "num_classes": len(names)},
        "preprocess": {"size": 224},
        "decision": {"threshold": 0.5 if len(names) == 2 else None, "temperature": 1.0, "threshold_source": "default"},
        "weights": {"sha256": "ab" * 32, "file": "model.safetensors"},
        "provenance": {"license": "CC BY 4.0"},
    }
    (folder / "bundle" / "bundle.json").write_text(json.dumps(bundle))
    check = {"method": "grad_cam", "n": 16, "passed": True, "verdict": "passed: rank correlation 0.02 with a random network"}
    check["rows"] = [{"randomized_down_to": "stem", "rank_correlation": 0.02}]
    (folder / "figures" / "sanity.json").write_text(json.dumps([check]))
    cases = []
    for i, correct in enumerate((False, True), start=1):
        png(folder / "figures" / f"gallery_{i:02d}.png")
        cases.append(
            {
                "file": f"gallery_{i:02d}.png",
                "label": names[0],
                "predicted": names[0] if correct else names[-1],
                "probability": 0.912,
                "correct": correct,
                "maps": ["Final attention α", "Grad-CAM"],
                "mask": True,
            }
        )
    (folder / "figures" / "gallery.json").write_text(json.dumps(cases))
    return folder


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    return lambda *args, name="run", **settings: write_run(tmp_path / name, *args, **settings)
