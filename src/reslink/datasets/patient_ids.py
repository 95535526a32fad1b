"""Whose images they are where the data set does not say it: the Patient ID of DICOM headers, kept as a hash only."""

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
from reslink.imaging.dicom.header import first_elements

_STUDY: Final = 0x0020000D
_FEWEST: Final = 3
_NOBODY: Final = re.compile(r"(anon(ym(ous|i[sz]ed)?)?|deidentified|redacted|removed|unknown|none|null|na|x*)(patient)?", re.I)
"""What stands for a Patient ID that was taken out, without signs and spaces."""


@dataclass(frozen=True)
class HeaderPatient:
    """Whose image a file holds, and from which examination, as its header says: pseudonyms, not anonymous.

    The hashes have no salt, so that two runs agree: whoever holds a list of ids can compute them again.

    Attributes:
        patient: Hash of Patient ID and issuer (PS3.3 C.2.2); '' for a file that is not DICOM or names nobody.
        study: Hash of the Study Instance UID; '' where there is none.
    """

    patient: str = ""
    study: str = ""


def header_patient(path: Path) -> HeaderPatient:
    """Reads the header of a file, not its pixels."""
    header = first_elements(path, _STUDY)
    if header is None:
        return HeaderPatient()
    name, issuer, study = (_text(header.get(word)) for word in ("PatientID", "IssuerOfPatientID", "StudyInstanceUID"))
    known = not _NOBODY.fullmatch(re.sub(r"[\W_]", "", name))
    return HeaderPatient(_hash(f"{issuer}\0{name}") if known else "", _hash(study) if study else "")


def header_patients(cases: Sequence[Case]) -> list[HeaderPatient]:
    """Reads the headers of all cases; see :func:`header_patient`."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(header_patient, (case.path for case in cases)))


def with_header_patients(manifest: Manifest, found: Sequence[HeaderPatient] | None = None) -> tuple[Manifest, str]:
    """Gives the cases without a patient the one that their DICOM headers name.

    A patient that the data set states stays. A case without one whose header names the same person as that of a case with
    one gets this one. An id that all files share, three at least, although they are not all of one study, names nobody (such
    as a word that an anonymiser wrote) and is not used; neither are empty ids and words such as ANON.

    Args:
        manifest: The cases.
        found: What each header says, where it has been read already.

    Returns:
        The cases, and why the ids of the headers are not used where they are not, '' where all is well.
    """
    if all(case.patient_id is not None for case in manifest.cases):
        return manifest, ""
    headers = header_patients(manifest.cases) if found is None else found
    told = [header for header in headers if header.patient]
    if _shared_by_all(told):
        return manifest, (
            f"the DICOM headers of all {len(told)} files that name a patient have the same Patient ID although they are not "
            "all of one study: it is not used"
        )
    stated = _stated(manifest.cases, headers)
    pairs = zip(manifest.cases, headers, strict=True)
    return replace(manifest, cases=tuple(_filled(case, header.patient, stated) for case, header in pairs)), ""


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _hash(text: str) -> str:
    return sha256(text)[:16]


def _shared_by_all(told: Sequence[HeaderPatient]) -> bool:
    studies = {header.study for header in told}
    one_study = len(studies) == 1 and "" not in studies
    return len(told) >= _FEWEST and len({header.patient for header in told}) == 1 and not one_study


def _stated(cases: Sequence[Case], headers: Sequence[HeaderPatient]) -> dict[str, str]:
    """The stated patient that stands for the one of a header, where there is one and no other."""
    known: dict[str, set[str]] = {}
    for case, header in zip(cases, headers, strict=True):
        if case.patient_id is not None and header.patient:
            known.setdefault(header.patient, set()).add(case.patient_id)
    return {header: names.pop() for header, names in known.items() if len(names) == 1}


def _filled(case: Case, header: str, stated: dict[str, str]) -> Case:
    if case.patient_id is not None or not header:
        return case
    return replace(case, patient_id=stated.get(header, f"dicom-{header}"), patient_from_header=True)
