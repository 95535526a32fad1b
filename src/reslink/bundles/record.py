"""The content of ``bundle.json`` and its strict reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, NoReturn

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reslink.bundles.decision.decision import Decision
from reslink.bundles.lineage import Ancestor
from reslink.bundles.scope import Scope
from reslink.errors import BundleError, unusable_bundle
from reslink.imaging.preprocess import Preprocess
from reslink.settings_text import parse_json

BUNDLE_JSON: Final = "bundle.json"
WEIGHTS: Final = "model.safetensors"
MODEL_CARD: Final = "MODEL_CARD.md"
FINGERPRINTS: Final = "fingerprints.safetensors"
DECISION: Final = "decision.safetensors"
ONNX_MODEL: Final = "model.onnx"
SCHEMA_VERSION: Final = 5
MAX_JSON_BYTES: Final = 4 << 20
"""A ``bundle.json`` has some kilobytes; a file larger than this was not written by reslink."""


class FileRecord(BaseModel):
    """A file of arrays beside ``bundle.json``, such as the weights, and its checksum."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    file: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: int = Field(ge=8)


class OnnxRecord(FileRecord):
    """The ONNX graph of the network, and the SHA-256 of everything that it was made from."""

    source: str = Field(pattern="^[0-9a-f]{64}$")


class BundleRecord(BaseModel):
    """``bundle.json``, key by key."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    schema_version: int
    architecture: dict[str, Any]
    preprocess: Preprocess
    labels: list[str]
    exclusive: bool = True
    decision: Decision
    scope: Scope
    weights: FileRecord
    onnx: OnnxRecord | None = None
    fingerprints: FileRecord | None = None
    decision_arrays: FileRecord | None = None
    lineage: list[Ancestor] = []
    metrics: dict[str, Any]
    provenance: dict[str, Any]


def read_record(path: Path) -> BundleRecord:
    """Reads ``bundle.json``.

    Raises:
        BundleError: If the file is missing, not JSON, of another version, or a field is missing, unknown or invalid.
    """
    text = _read_text(path)
    _check_version(_parse(text, path), path)
    try:
        return BundleRecord.model_validate_json(text)
    except ValidationError as error:
        next_step = "Restore the file or train again; do not edit it by hand"
        raise unusable_bundle(path, first_error(error), next_step) from error


def first_error(error: ValidationError) -> str:
    """Returns the first error that pydantic reports as one phrase, with the name of its field."""
    first = error.errors(include_url=False, include_context=False)[0]
    return f"{'.'.join(str(name) for name in first['loc']) or 'it'}: {first['msg']}"


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            _raise_not_json(path, f"has {path.stat().st_size} bytes, more than {MAX_JSON_BYTES}")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        _raise_not_json(path, "is not a text file")
    except OSError as error:
        raise BundleError(
            f"{path} cannot be read: {error.strerror or error}",
            "A bundle is a folder with bundle.json and model.safetensors",
            "Check the permissions of the folder",
        ) from error


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        value = parse_json(text, finite=True)
    except ValueError as error:
        _raise_not_json(path, f"is damaged ({error})")
    if not isinstance(value, dict):
        _raise_not_json(path, "holds no JSON object")
    return value


def _raise_not_json(path: Path, fault: str) -> NoReturn:
    raise BundleError(f"{path} {fault}", "A bundle.json is a small JSON object", "Restore the file or train again")


def _check_version(value: dict[str, Any], path: Path) -> None:
    version = value.get("schema_version")
    if type(version) is not int or version < 1:
        raise BundleError(
            f"{path} has no valid schema_version, but {version!r}",
            f"A bundle of this reslink has the schema_version {SCHEMA_VERSION}",
            "Give a folder that reslink wrote, such as RUN/bundle",
        )
    if version != SCHEMA_VERSION:
        newer = version > SCHEMA_VERSION
        raise BundleError(
            f"{path} has the schema version {version}",
            f"This reslink reads schema version {SCHEMA_VERSION}",
            "Update reslink to the version that wrote the bundle" if newer else "Train the model again with this reslink",
        )
