"""UIDs, series numbers and equipment attributes of the DICOM results of one series."""

from __future__ import annotations

import json
import uuid
from typing import Any, Final

from reslink import __version__
from reslink.imaging.dicom.modality import MANUFACTURER
from reslink.serving.dicom.classify import Model, SeriesResult

EXTRA: Final = "pacs"
BANNER: Final = "RESEARCH USE ONLY - NOT A MEDICAL DEVICE"
"""Burned into every picture, and part of every description. Plain ASCII, which every DICOM character set contains."""

_SERIES_NUMBERS: Final = {"report": 9501, "picture": 9502, "map": 9503}
_NAMESPACE: Final = uuid.UUID("0d3e2a4c-3c2f-5b0e-8a57-4f1f8d1f6a55")


def derive_uid(*parts: object) -> str:
    """Returns a UID below 2.25 that is derived from the parts (PS3.5 B.2; name-based UUID, RFC 9562 section 5.5)."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, json.dumps([str(part) for part in parts])).int}"


class ResultUIDs:
    """The UIDs of the DICOM results for one series.

    They are derived from the content of the series (pixels, UIDs, patient and study), the weights, the settings, and whether
    the series is incomplete. A second run therefore replaces the results of the first; another slice, a corrected patient,
    other weights or another threshold give other UIDs.

    Args:
        result: The predictions for the series.
    """

    def __init__(self, result: SeriesResult) -> None:
        series = result.series
        state = ["incomplete"] if series.incomplete else []
        self._source = (*series.content, *state, result.model.weights, result.model.settings)

    def series(self, kind: str) -> str:
        """Returns the Series Instance UID of a kind of result."""
        return derive_uid("series", kind, *self._source)

    def instance(self, kind: str) -> str:
        """Returns the SOP Instance UID of a kind of result."""
        return derive_uid("instance", kind, *self._source)

    def tracking(self, name: object) -> str:
        """Returns the tracking UID of a measurement."""
        return derive_uid("tracking", name, *self._source)


def device_uid(model: Model) -> str:
    """Returns the UID of a model with its settings as an observing device."""
    return derive_uid("device", model.weights, model.settings)


def ascii_value(text: str, max_length: int = 64) -> str:
    """Returns a text that is valid in every DICOM character set: ASCII, without a backslash, of limited length."""
    return text.encode("ascii", "replace").decode().replace("\\", "/")[:max_length].strip()


def equipment_attributes(model: Model) -> dict[str, Any]:
    """Returns the attributes of the General Equipment module (PS3.3 C.7.5.1) for a model."""
    return {
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": ascii_value(model.name),
        "software_versions": ascii_value(f"{__version__}; weights {model.weights[:12]}; settings {model.settings[:12]}"),
        "device_serial_number": ascii_value(f"{model.weights[:32]}"),
    }


def identification_attributes(result: SeriesResult, kind: str) -> dict[str, Any]:
    """Returns UIDs, numbers and description of a result.

    Args:
        result: The predictions for the series.
        kind: ``report``, ``picture`` or ``map``.
    """
    uids = ResultUIDs(result)
    return {
        "series_instance_uid": uids.series(kind),
        "sop_instance_uid": uids.instance(kind),
        "series_number": _SERIES_NUMBERS[kind],
        "instance_number": 1,
        "series_description": ascii_value(f"reslink {result.model.name}: {kind}, research use only"),
    }
