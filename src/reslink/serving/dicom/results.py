"""Creates the DICOM objects for the archive: a structured report, a secondary capture and a parametric map."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Final

from pydicom import Dataset, uid

from reslink.files import optional_import
from reslink.imaging.limits import silence_warnings
from reslink.serving.dicom.classify import SeriesResult
from reslink.serving.dicom.identifiers import EXTRA

_COPIED: Final = ("IssuerOfPatientID", "IssuerOfPatientIDQualifiersSequence", "IssuerOfAccessionNumberSequence")
"""Attributes of the source without which an archive of several hospitals files a result under another patient."""


@dataclass(frozen=True)
class DicomResult:
    """One DICOM object for the archive.

    Attributes:
        kind: ``report``, ``picture`` or ``map``.
        content: The whole file.
    """

    kind: str
    content: bytes


def create_results(result: SeriesResult) -> list[DicomResult]:
    """Creates the DICOM objects for one series.

    Args:
        result: From :func:`reslink.serving.dicom.classify.classify_series`.

    Returns:
        A structured report, a picture and, if the model has a map, a parametric map.

    Raises:
        UsageError: If highdicom is not installed.
    """
    optional_import("highdicom", EXTRA)
    from reslink.serving.dicom.parametric_map import parametric_map
    from reslink.serving.dicom.secondary_capture import secondary_capture
    from reslink.serving.dicom.structured_report import structured_report

    with silence_warnings():  # warnings of highdicom quote unusual patient names
        objects = [
            _encode("report", structured_report(result), result),
            _encode("picture", secondary_capture(result), result),
        ]
        if result.maps is not None and result.series.is_placed:
            objects.append(_encode("map", parametric_map(result), result))
    return objects


def _encode(kind: str, dataset: Dataset, result: SeriesResult) -> DicomResult:
    stream, source = io.BytesIO(), result.series.headers[0]
    for name in _COPIED:
        if name in source:
            dataset[name] = source[name]
    if result.series.character_set is not None:
        dataset.SpecificCharacterSet = result.series.character_set
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    dataset.save_as(stream, enforce_file_format=True)
    return DicomResult(kind, stream.getvalue())
