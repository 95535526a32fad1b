"""Patient ids from DICOM headers, for data sets that do not state them; stored only as hashes."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from reslink.datasets.manifest import Case, Manifest
from reslink.files import sha256
from reslink.imaging.dicom.header import read_elements_until

_LAST_TAG: Final = 0x0020000D
_MIN_FILES: Final = 3
_PLACEHOLDER: Final = re.compile(
    r"(anon(ym(ous|i[sz]ed)?)?|deidentified|redacted|removed|unknown|none|null|na|x*)(patient)?", re.I
)
"""Placeholders for a removed Patient ID, without punctuation and spaces."""


@dataclass(frozen=True)
class HeaderPatient:
    """The patient and study of a file, as hashes of its DICOM header. They are pseudonyms, not anonymous.

    The hashes have no salt, so that two runs agree. Anyone with a list of patient ids can compute them.

    Attributes:
        patient: Hash of Patient ID and issuer (PS3.3 C.2.2); '' if the file is not DICOM or has no Patient ID.
        study: Hash of the Study Instance UID; '' if there is none.
    """

    patient: str = ""
    study: str = ""


def read_header_patient(path: Path) -> HeaderPatient:
    """Reads the patient and study from the header of a file; pixels are not read."""
    header = read_elements_until(path, _LAST_TAG)
    if header is None:
        return HeaderPatient()
    keywords = ("PatientID", "IssuerOfPatientID", "StudyInstanceUID")
    patient_id, issuer, study = (_text(header.get(keyword)) for keyword in keywords)
    is_real = not _PLACEHOLDER.fullmatch(re.sub(r"[\W_]", "", patient_id))
    return HeaderPatient(_hash(f"{issuer}\0{patient_id}") if is_real else "", _hash(study) if study else "")


def read_header_patients(cases: Sequence[Case]) -> list[HeaderPatient]:
    """Reads the headers of all cases in parallel; see ``read_header_patient``."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(read_header_patient, (case.path for case in cases)))


def add_header_patients(manifest: Manifest, headers: Sequence[HeaderPatient] | None = None) -> tuple[Manifest, str]:
    """Fills missing patient ids from the DICOM headers.

    Stated patient ids are kept. If a case without one has the same header patient as a case with one, it gets the stated id.
    If all files with a Patient ID (three or more) share the same one but are not all of one study, the id is a placeholder
    (for example written by an anonymizer) and is not used. Empty ids and words such as ANON are not used either.

    Args:
        manifest: The cases.
        headers: The header of each case, if already read; None reads them.

    Returns:
        The cases, and the reason why header ids are not used, or '' if they are.
    """
    if all(case.patient_id is not None for case in manifest.cases):
        return manifest, ""
    headers = read_header_patients(manifest.cases) if headers is None else headers
    with_patient = [header for header in headers if header.patient]
    if _shared_by_all(with_patient):
        return manifest, (
            f"the DICOM headers of all {len(with_patient)} files with a Patient ID have the same one although they are not "
            "all of one study; it is not used"
        )
    stated = _stated_patients(manifest.cases, headers)
    pairs = zip(manifest.cases, headers, strict=True)
    return replace(manifest, cases=tuple(_with_patient(case, header.patient, stated) for case, header in pairs)), ""


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _hash(text: str) -> str:
    return sha256(text)[:16]


def _shared_by_all(headers: Sequence[HeaderPatient]) -> bool:
    studies = {header.study for header in headers}
    one_study = len(studies) == 1 and "" not in studies
    return len(headers) >= _MIN_FILES and len({header.patient for header in headers}) == 1 and not one_study


def _stated_patients(cases: Sequence[Case], headers: Sequence[HeaderPatient]) -> dict[str, str]:
    """Header patient to stated patient, where exactly one stated patient matches."""
    matches: dict[str, set[str]] = {}
    for case, header in zip(cases, headers, strict=True):
        if case.patient_id is not None and header.patient:
            matches.setdefault(header.patient, set()).add(case.patient_id)
    return {header: names.pop() for header, names in matches.items() if len(names) == 1}


def _with_patient(case: Case, header: str, stated: dict[str, str]) -> Case:
    if case.patient_id is not None or not header:
        return case
    return replace(case, patient_id=stated.get(header, f"dicom-{header}"), patient_from_header=True)
