"""What goes back to the archive for one answer: a structured report, a picture and a map, under UIDs that follow from it."""

from __future__ import annotations

import io
import json
import uuid
from dataclasses import dataclass
from typing import Any, Final

from pydicom import Dataset, uid

from reslink import __version__
from reslink.files import optional_import
from reslink.imaging.dicom.modality import MANUFACTURER
from reslink.imaging.limits import quiet
from reslink.serving.dicom.classify import Answer, Model

EXTRA: Final = "pacs"
BANNER: Final = "RESEARCH USE ONLY - NOT A MEDICAL DEVICE"
"""Burned into every picture, and part of every description; plain ASCII, which every character set of DICOM holds."""

KINDS: Final = ("report", "picture", "map")
_SERIES_NUMBERS: Final = {"report": 9501, "picture": 9502, "map": 9503}
_NAMESPACE: Final = uuid.UUID("0d3e2a4c-3c2f-5b0e-8a57-4f1f8d1f6a55")


@dataclass(frozen=True)
class Result:
    """One object for the archive.

    Attributes:
        kind: One of ``KINDS``.
        sop_class: Its SOP Class UID.
        sop_instance: Its SOP Instance UID, the same for the same slices, weights and settings.
        content: The whole file.
    """

    kind: str
    sop_class: str
    sop_instance: str
    content: bytes


def uid_from(*parts: object) -> str:
    """Returns a UID below 2.25 that follows from the parts (PS3.5 B.2; name-based UUID, RFC 9562 section 5.5)."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, json.dumps([str(part) for part in parts])).int}"


class Naming:
    """The UIDs of the results of one answer.

    They follow from the instances that were read, the weights and the settings: the same series gives the same ones, so that
    a second run replaces; a series with another slice, other weights or another threshold gives others.

    Args:
        answer: The answer.
    """

    def __init__(self, answer: Answer) -> None:
        series = answer.series
        instances = sorted(str(header.SOPInstanceUID) for header in series.headers)
        self._source = (series.headers[0].SeriesInstanceUID, *instances, answer.model.weights, answer.model.settings)

    def series(self, kind: str) -> str:
        """Returns the Series Instance UID of a kind of result."""
        return uid_from("series", kind, *self._source)

    def instance(self, kind: str) -> str:
        """Returns the SOP Instance UID of a kind of result."""
        return uid_from("instance", kind, *self._source)

    def tracking(self, what: object) -> str:
        """Returns the UID by which a measurement is tracked."""
        return uid_from("tracking", what, *self._source)


def device_uid(model: Model) -> str:
    """Returns the UID of a bundle with its settings as a device that observes."""
    return uid_from("device", model.weights, model.settings)


def plain(text: str, longest: int = 64) -> str:
    """Returns a text that fits a DICOM value of some length and every character set: ASCII, without a backslash."""
    return text.encode("ascii", "replace").decode().replace("\\", "/")[:longest].strip()


def software(model: Model) -> dict[str, Any]:
    """Returns how a model calls itself in the General Equipment module (PS3.3 C.7.5.1)."""
    return {
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": plain(model.name),
        "software_versions": plain(f"{__version__}; weights {model.weights[:12]}; settings {model.settings[:12]}"),
        "device_serial_number": plain(f"{model.weights[:32]}"),
    }


def identification(answer: Answer, kind: str) -> dict[str, Any]:
    """Returns UIDs, numbers and description of a result."""
    names = Naming(answer)
    return {
        "series_instance_uid": names.series(kind),
        "sop_instance_uid": names.instance(kind),
        "series_number": _SERIES_NUMBERS[kind],
        "instance_number": 1,
        "series_description": plain(f"reslink {answer.model.name}: {kind}, research use only"),
    }


def results(answer: Answer) -> list[Result]:
    """Makes the objects of an answer.

    Args:
        answer: From :func:`reslink.serving.dicom.classify.answer`.

    Returns:
        A structured report, a picture and, where the model has a map, a parametric map.

    Raises:
        UsageError: If highdicom is not installed.
    """
    optional_import("highdicom", EXTRA)
    from reslink.serving.dicom.parametric_map import attention_map
    from reslink.serving.dicom.secondary_capture import capture
    from reslink.serving.dicom.structured_report import report

    made = []
    with quiet():  # highdicom warns of names that it finds odd, and quotes them
        made = [_result("report", report(answer)), _result("picture", capture(answer))]
        if answer.maps is not None:
            made.append(_result("map", attention_map(answer)))
    return made


def _result(kind: str, dataset: Dataset) -> Result:
    stream = io.BytesIO()
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    dataset.save_as(stream, enforce_file_format=True)
    return Result(kind, str(dataset.SOPClassUID), str(dataset.SOPInstanceUID), stream.getvalue())
