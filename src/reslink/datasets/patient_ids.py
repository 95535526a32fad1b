"""Patients from DICOM headers, where a data set does not state them or splits an examination; stored only as hashes."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from reslink.datasets.case import Case
from reslink.datasets.manifest import Manifest
from reslink.datasets.near_duplicates.groups import connected_groups, pairs_of_equal_keys
from reslink.errors import counted
from reslink.files import sha256

_LAST_TAG: Final = 0x00200052  # Frame of Reference UID
_MIN_FILES: Final = 3
_UIDS: Final = {
    "study": "StudyInstanceUID",
    "series": "SeriesInstanceUID",
    "frame_of_reference": "FrameOfReferenceUID",
}
_STANDARD_ROOT: Final = "1.2.840.10008."
"""Root of the UIDs of the standard itself, such as those of the well-known frames of reference (PS3.6 table A-2)."""
_PLACEHOLDER: Final = re.compile(
    r"(anon(ym(ous|i[sz]ed)?)?|deidentified|redacted|removed|unknown|none|null|na|x*)(patient)?", re.I
)
"""Placeholders for a removed Patient ID, without punctuation and spaces."""


@dataclass(frozen=True)
class HeaderPatient:
    """What the DICOM header of a file says about its patient, as hashes. They are pseudonyms, not anonymous.

    The hashes have no salt, so that two runs agree. Anyone with a list of patient ids can compute them.

    Attributes:
        patient: Hash of Patient ID and issuer (PS3.3 C.2.2); '' if the file is not DICOM or has no Patient ID.
        study: Hash of the Study Instance UID; '' if there is none.
        series: Hash of the Series Instance UID; '' if there is none.
        frame_of_reference: Hash of the Frame of Reference UID (PS3.3 C.7.4.1), which all images of one position of one patient
            share; '' if there is none, or if it is one of the standard's own (such as that of an atlas).
    """

    patient: str = ""
    study: str = ""
    series: str = ""
    frame_of_reference: str = ""


class PatientNotes(NamedTuple):
    """What must be known about patients that were read from DICOM headers; each is '' if there is nothing to say.

    Attributes:
        unused: Which elements were not used, and why.
        joined: How many patients were joined because they share an examination.
        missing: Which of several data sets have no patient at all.
    """

    unused: str = ""
    joined: str = ""
    missing: str = ""

    def __str__(self) -> str:
        return "; ".join(note for note in self if note)


def read_header_patient(path: Path) -> HeaderPatient:
    """Reads the patient, study, series and frame of reference from the header of a file; pixels are not read.

    Of a folder, the first DICOM file counts.
    """
    from reslink.imaging.dicom.header import read_elements_until  # imports pydicom, which is slow

    if path.is_dir():
        from reslink.imaging.dicom.series import dicom_files

        path = next(iter(dicom_files(path)), path)
    header = read_elements_until(path, _LAST_TAG)
    if header is None:
        return HeaderPatient()
    patient_id, issuer = (_text(header.get(keyword)) for keyword in ("PatientID", "IssuerOfPatientID"))
    is_real = not _PLACEHOLDER.fullmatch(re.sub(r"[\W_]", "", patient_id))
    uids = {name: _text(header.get(keyword)) for name, keyword in _UIDS.items()}
    hashes = {name: _hash(uid) if uid and not uid.startswith(_STANDARD_ROOT) else "" for name, uid in uids.items()}
    return HeaderPatient(_hash(f"{issuer}\0{patient_id}") if is_real else "", **hashes)


def read_header_patients(cases: Sequence[Case]) -> list[HeaderPatient]:
    """Reads the headers of all cases in parallel; see ``read_header_patient``."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(read_header_patient, (case.path for case in cases)))


def add_header_patients(manifest: Manifest, headers: Sequence[HeaderPatient] | None = None) -> tuple[Manifest, PatientNotes]:
    """Fills missing patient ids from the DICOM headers, and joins patients that share an examination.

    Stated patient ids are kept. If a case without one has the same header patient as a case with one, it gets the stated id.
    Cases with the same study, series or frame of reference are one patient, whatever their Patient ID: anonymizers may empty it
    or change it in each file. If they have several stated patients, all get the first of these ids.

    An element with the same value in all files (three or more) is a placeholder, for example written by an anonymizer, and is
    not used: a Patient ID if the files are not all of one study, a UID if they are not all of one patient. Empty ids and words
    such as ANON are not used either.

    Args:
        manifest: The cases.
        headers: The header of each case, if already read; None reads them.

    Returns:
        The cases, and what must be said about it.
    """
    headers = read_header_patients(manifest.cases) if headers is None else headers
    patients_unused = _shared_by_all_studies(headers)
    if patients_unused:
        headers = [replace(header, patient="") for header in headers]
    patients = _patients(manifest.cases, headers)
    usable = [name for name in _UIDS if not _shared_by_all_patients(headers, name, patients)]
    if len(usable) < len(_UIDS):
        headers = [replace(header, **dict.fromkeys(_UIDS.keys() - usable, "")) for header in headers]
    pairs = [
        pair
        for keys in (patients, *([getattr(header, name) or None for header in headers] for name in usable))
        for pair in pairs_of_equal_keys(keys)
    ]
    examinations = connected_groups(len(headers), np.array(pairs, np.intp).reshape(-1, 2))
    joined = _joined_patients(manifest.cases, patients, headers, examinations)
    cases = tuple(_with_patient(case, joined[group]) for case, group in zip(manifest.cases, examinations, strict=True))
    n_joined = len({*patients} - {None} - {*joined.values()})
    return replace(manifest, cases=cases), PatientNotes(
        "; ".join([*([_unused_ids(patients_unused)] if patients_unused else []), *_unused_uids(usable)]),
        f"{n_joined} joined with another one, because of a shared DICOM study, series or frame of reference"
        if n_joined
        else "",
        _sets_without_patients(manifest.set_names, cases) if manifest.sets else "",
    )


def _sets_without_patients(set_names: Sequence[str], cases: Sequence[Case]) -> str:
    known = {name for name, case in zip(set_names, cases, strict=True) if case.patient_id is not None}
    without = Counter(name for name in set_names if name not in known)
    if not without:
        return ""
    listed = ", ".join(f"{name} ({counted(n, 'case')})" for name, n in without.items())
    return f"no case of {listed} states one, in a table or in a DICOM header"


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _hash(text: str) -> str:
    return sha256(text)[:16]


def _shared_by_all_studies(headers: Sequence[HeaderPatient]) -> int:
    """Returns the number of files with a Patient ID if all have the same one although they are not of one study; else 0."""
    known = [header for header in headers if header.patient]
    studies = {header.study for header in known}
    one_study = len(studies) == 1 and "" not in studies
    return len(known) if len(known) >= _MIN_FILES and len({header.patient for header in known}) == 1 and not one_study else 0


def _shared_by_all_patients(headers: Sequence[HeaderPatient], name: str, patients: Sequence[str | None]) -> bool:
    """Whether all files have the same UID of this name although they belong to several patients."""
    known = [getattr(header, name) for header in headers if getattr(header, name)]
    return len(known) >= _MIN_FILES and len(known) == len(headers) and len({*known}) == 1 and len({*patients} - {None}) > 1


def _unused_ids(count: int) -> str:
    return (
        f"the DICOM headers of all {count} files with a Patient ID have the same one although they are not all of one study; "
        "it is not used"
    )


def _unused_uids(usable: Sequence[str]) -> list[str]:
    names = [name.replace("_", " ") for name in _UIDS if name not in usable]
    return (
        [f"all files have the same DICOM {' and '.join(names)} although they have several patients; it is not used"]
        if names
        else []
    )


def _patients(cases: Sequence[Case], headers: Sequence[HeaderPatient]) -> list[str | None]:
    """Returns the patient of each case: the stated one, the one that its header stands for, the header's own, or None."""
    stated = _stated_patients(cases, headers)
    return [
        case.patient_id or (stated.get(header.patient, f"dicom-{header.patient}") if header.patient else None)
        for case, header in zip(cases, headers, strict=True)
    ]


def _stated_patients(cases: Sequence[Case], headers: Sequence[HeaderPatient]) -> dict[str, str]:
    """Header patient to stated patient, where exactly one stated patient matches."""
    matches: dict[str, set[str]] = {}
    for case, header in zip(cases, headers, strict=True):
        if case.patient_id is not None and header.patient:
            matches.setdefault(header.patient, set()).add(case.patient_id)
    return {header: names.pop() for header, names in matches.items() if len(names) == 1}


def _joined_patients(
    cases: Sequence[Case], patients: Sequence[str | None], headers: Sequence[HeaderPatient], examinations: Sequence[int]
) -> dict[int, str | None]:
    """Returns the patient of each examination: the first stated id, else the first of the headers, else None.

    "First" is in the order of the ids, so that the order of the cases does not matter.
    """
    names: dict[int, set[tuple[bool, str]]] = {group: set() for group in examinations}
    for case, patient, header, group in zip(cases, patients, headers, examinations, strict=True):
        uid = header.study or header.series or header.frame_of_reference
        name = patient or (f"dicom-{uid}" if uid else None)
        if name:
            names[group].add((case.patient_id is None, name))
    return {group: min(candidates)[1] if candidates else None for group, candidates in names.items()}


def _with_patient(case: Case, patient: str | None) -> Case:
    if case.patient_id == patient or patient is None:
        return case
    return replace(case, patient_id=patient, patient_from_header=True, patient_in_table=case.patient_id)
