"""What stands in ``bundle.json``, and how it is read without trust."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reslink.bundles.decision.decision import Decision
from reslink.errors import BundleError
from reslink.imaging.preprocess import Preprocess

BUNDLE_JSON = "bundle.json"
WEIGHTS = "model.safetensors"
CARD = "MODEL_CARD.md"
FINGERPRINTS = "fingerprints.safetensors"
DECISION = "decision.safetensors"
TWIN = "model.onnx"
SCHEMA_VERSION = 3
MAX_JSON_BYTES = 4 << 20
"""A ``bundle.json`` is a few kilobytes; a larger one than this is not ours."""


class WeightsRecord(BaseModel):
    """A file of arrays beside ``bundle.json``, such as the weights, and its checksum."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    file: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: int = Field(ge=8)


class TwinRecord(WeightsRecord):
    """The ONNX graph of the network, and the SHA-256 of all that it was made from."""

    source: str = Field(pattern="^[0-9a-f]{64}$")


class Record(BaseModel):
    """``bundle.json``, key by key."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    schema_version: int
    architecture: dict[str, Any]
    preprocess: Preprocess
    labels: list[str]
    decision: Decision
    weights: WeightsRecord
    onnx: TwinRecord | None = None
    fingerprints: WeightsRecord | None = None
    decision_arrays: WeightsRecord | None = None
    metrics: dict[str, Any]
    provenance: dict[str, Any]


def read_record(path: Path) -> Record:
    """Reads ``bundle.json``.

    Raises:
        BundleError: If it is missing, not JSON, of a newer version, or a field is missing, unknown or of a wrong kind.
    """
    text = _read_text(path)
    _check_version(_parse(text, path), path)
    try:
        return Record.model_validate_json(text)
    except ValidationError as error:
        raise BundleError(
            f"{path} cannot be used: {first_fault(error)}",
            "A bundle.json holds exactly what reslink wrote",
            "Restore the file or train again; do not edit it by hand",
        ) from error


def first_fault(error: ValidationError) -> str:
    """Returns the first fault that pydantic found as one phrase, with the name of its field."""
    fault = error.errors(include_url=False, include_context=False)[0]
    return f"{'.'.join(str(part) for part in fault['loc']) or 'it'}: {fault['msg']}"


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            _not_json(path, f"has {path.stat().st_size} bytes, more than {MAX_JSON_BYTES}")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        _not_json(path, "is not a text")
    except OSError as error:
        raise BundleError(
            f"{path} cannot be read: {error.strerror or error}",
            "A bundle is a folder with bundle.json and model.safetensors",
            "Check the permissions of the folder",
        ) from error


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        _not_json(path, f"is damaged ({error})")
    if not isinstance(value, dict):
        _not_json(path, "holds no JSON object")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _not_json(path: Path, fault: str) -> NoReturn:
    raise BundleError(f"{path} {fault}", "A bundle.json is a small JSON object", "Restore the file or train again")


def _check_version(value: dict[str, Any], path: Path) -> None:
    version = value.get("schema_version")
    if type(version) is not int or version < 1:
        raise BundleError(
            f"{path} has no valid schema_version (found {version!r})",
            f"reslink bundles carry a schema_version from 1 to {SCHEMA_VERSION}",
            "Give a folder that reslink wrote, such as RUN/bundle",
        )
    if version > SCHEMA_VERSION:
        raise BundleError(
            f"{path} is a bundle of schema version {version}",
            f"This reslink reads up to schema version {SCHEMA_VERSION}",
            "Update reslink: pip install --upgrade reslink",
        )
