"""Features of files as text, one line of JSON per file, so that a part of an audit can be kept and resumed."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import numpy as np

from reslink.audit.burned_in_text import TextBox
from reslink.audit.extract import Extracted, FileFeatures, Volume
from reslink.audit.features.image import ImageFeatures
from reslink.datasets.patient_ids import HeaderPatient


def features_to_lines(items: Iterable[Extracted]) -> str:
    """Returns a line per file."""
    records = (item if isinstance(item, str) else asdict(item) for item in items)
    return "".join(json.dumps(record, default=_encode) + "\n" for record in records)


def features_from_lines(lines: Iterable[str]) -> list[Extracted]:
    """Returns what :func:`features_to_lines` got, with the same bits in every number."""
    return [_extracted(json.loads(line, object_hook=_decode)) for line in lines]


def _encode(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {"dtype": value.dtype.str, "shape": value.shape, "base64": base64.b64encode(value.tobytes()).decode()}
    return value.item()  # a scalar of NumPy


def _decode(value: dict[str, Any]) -> Any:
    if "base64" not in value:
        return value
    return np.frombuffer(base64.b64decode(value["base64"]), value["dtype"]).reshape(value["shape"])


def _extracted(record: Any) -> Extracted:
    if isinstance(record, str):
        return record
    if "problem" in record:
        return Volume(**record)
    image = record["image"]
    return FileFeatures(
        **record
        | {
            "image": ImageFeatures(**image | {"shape": tuple(image["shape"]), "head": tuple(image["head"])}),
            "text_boxes": [TextBox(**box) for box in record["text_boxes"]],
            "patient": HeaderPatient(**record["patient"]),
        }
    )
