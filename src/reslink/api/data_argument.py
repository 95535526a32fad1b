"""Data sets as arguments: a path or an opened manifest."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from reslink.datasets.manifest import Manifest

Data: TypeAlias = "str | Path | Manifest"
"""A folder with one folder per class, a folder with a manifest.csv, a CSV, or an opened manifest."""

_log = logging.getLogger(__name__)


def open_manifest(data: Data, **options: Any) -> Manifest:
    """Returns the manifest of a data set.

    Args:
        data: A path, or a manifest, which is returned unchanged.
        **options: Options of ``Manifest.open``.

    Raises:
        UsageError: If the data set cannot be used.
    """
    from reslink.datasets.manifest import Manifest

    return data if isinstance(data, Manifest) else Manifest.open(data, **options)


def read_patients(manifest: Manifest) -> Manifest:
    """Returns the manifest with patients from DICOM headers where the table names none; logs a warning if a header has none."""
    from reslink.datasets.patient_ids import add_header_patients

    manifest, note = add_header_patients(manifest)
    if note:
        _log.warning("Patients: %s.", note)
    return manifest
