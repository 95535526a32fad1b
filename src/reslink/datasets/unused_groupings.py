"""Signs that images without a patient belong to some after all: a column that is not used, or ids in file names."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Final

from reslink.datasets.case import Case
from reslink.labels import clean_text, is_missing

_IDENTIFIER: Final = re.compile(
    r"(^|[^a-z])(id|ids|uid|pid|nr|no|num|number|key|code|patient|subject|case|study|studies|exam|examination|series|scan|session"
    r"|visit|volume|accession|person|participant|animal|specimen|group|grp|folder)([^a-z]|$)|(?<=[a-z])(ID|UID|Id|Uid|Nr|No)$"
)
_OWN_COLUMNS: Final = re.compile(r"given_.*|fold|group|index|split")
_SLICE_NUMBER: Final = re.compile(
    r"[\W_]*(slice|slc|sl|image|img|im|frame|fr|axial|ax|z|s|i|page|aug|copy|v)?[\W_]*\(?\d+\)?$", re.I
)
_CHANGED: Final = (
    r"(aug(ment(ed|ation))?s?|rot(at(ed?|ion))?|(h|v|lr|ud)?flip(ped)?|mirror(ed)?|shift(ed)?|zoom(ed)?|crop(ped)?|noisy?|blur(red)?"
    r"|bright(er|ness)?|dark(er)?|contrast|gamma|elastic|shear(ed)?|copy|kopie)"
)
_AUGMENTED: Final = re.compile(rf"(?P<image>.+?)[\W_]+{_CHANGED}([\W_\d].*)?|{_CHANGED}[\W_]*\d*[\W_]+(?P<of>.+)")
"""Stem, in lower case, of an augmented copy if an image has the rest of it as its stem."""
_NUMBERED: Final = 0.95
"""Patients per image from which the column of patients may only number the images."""
_MIN_GROUPS: Final = 4
_MIN_IMAGES: Final = 1.5
"""Images per group below which a column does not group."""


def unused_grouping(cases: Sequence[Case]) -> str:
    """Returns a sentence on the images that state no patient, with what seems to group them, or ''.

    The sentence is '' if all images state a patient, or if none does and nothing seems to group them. If nearly every image has
    a patient of its own, the column may only number the images: file names that group them are then named too.

    A column groups if its values repeat and its name is that of an identifier, or its equal values follow each other. File
    names group if they are numbered slices after an id, such as ``P012_slice3.png``, or if there is a folder for each id.
    """
    rows = [case for case in cases if case.patient_id is None]
    numbered = not rows and len({case.patient_id for case in cases}) > _NUMBERED * len(cases)
    rows = list(cases) if numbered else rows
    if not rows or _is_dicom(rows[0]):  # the patients of DICOM files are in their headers
        return ""
    found = [
        f"the column {header!r} ({_count(values)})"
        for header, values in _columns(rows)
        if not numbered and _groups(header, values)
    ]
    ids = [] if found else _ids_of_names(rows)
    if ids:
        first = next(case.name for case, name in zip(rows, ids, strict=True) if name)
        found = [f"file names such as {first} ({_count(ids)})"]
    how = "name the column with --columns patient=COLUMN" if not ids else "add a column patient_id to a table of the images"
    lead = "No patient is stated"
    if numbered:
        lead = "Nearly every image states a patient of its own"
    elif len(rows) < len(cases):
        lead, how = f"{len(rows)} of {len(cases)} images state no patient", "complete the column patient_id"
    if found:
        return f"{lead}, but {' and '.join(found)} may group the images of a patient. If so, {how}"
    return f"{lead}; each of them counts as a patient of its own" if len(rows) < len(cases) else ""


def augmented_copies(cases: Sequence[Case]) -> str:
    """Returns a sentence on files that are named like augmented copies of images of another or no patient, or ''.

    The near-duplicate search recognizes turns by 90 degrees and mirror images, but no other angles, shears or missing parts.
    """
    names = [(re.sub(r"[\W_]+$", "", PurePosixPath(case.name).name.split(".")[0].casefold()), case) for case in cases]
    originals = dict(reversed(names))
    pairs = []
    for stem, case in names:
        match = _AUGMENTED.fullmatch(stem)
        rest = "" if match is None else re.sub(r"[\W_]+$", "", match["image"] or match["of"])
        while rest and rest not in originals:
            rest = _SLICE_NUMBER.sub("", rest) if _SLICE_NUMBER.search(rest) else ""
        if rest and (case.patient_id is None or case.patient_id != originals[rest].patient_id):
            pairs.append((case.name, originals[rest].name))
    if not pairs:
        return ""
    files = (
        "1 file is named like an augmented copy" if len(pairs) == 1 else f"{len(pairs)} files are named like augmented copies"
    )
    return (
        f"{files} of another image, such as {pairs[0][0]} of {pairs[0][1]}. reslink does not recognize copies by their "
        "pixels if they are turned by other angles than 90 degrees, so they may get into another split. Remove them, because "
        "training augments images itself, or give copy and image the same patient_id"
    )


def _columns(cases: Sequence[Case]) -> list[tuple[str, list[str]]]:
    headers = dict.fromkeys(header for case in cases for header in case.extra)
    used = {case.source for case in cases}
    columns = [(header, [clean_text(case.extra.get(header, "")) for case in cases]) for header in headers]
    return [(header, values) for header, values in columns if not _OWN_COLUMNS.fullmatch(header) and not set(values) <= used]


def _groups(header: str, values: Sequence[str]) -> bool:
    stated = [value for value in values if not is_missing(value)]
    groups = len(set(stated))
    if groups < _MIN_GROUPS or len(stated) < _MIN_IMAGES * groups or len(stated) < 0.8 * len(values):
        return False
    runs = 1 + sum(a != b for a, b in itertools.pairwise(stated))
    return bool(_IDENTIFIER.search(header) or _IDENTIFIER.search(header.lower())) or runs <= 1.25 * groups


def _ids_of_names(cases: Sequence[Case]) -> list[str]:
    """Returns the id in the name of each file, or its folder; empty if neither groups the images."""
    paths = [PurePosixPath(case.name) for case in cases]
    stems = [_SLICE_NUMBER.sub("", path.name.split(".")[0]) for path in paths]
    ids = [stem if any(map(str.isdigit, stem)) else "" for stem in stems]
    labels = {clean_text(case.label).casefold() for case in cases}
    folders = [str(path.parent) if path.parent.name.casefold() not in labels else "" for path in paths]
    return next((names for names in (ids, folders) if _repeat(names)), [])


def _repeat(names: Sequence[str]) -> bool:
    stated = [name for name in names if name]
    groups = len(set(stated))
    return groups >= _MIN_GROUPS and len(stated) >= max(_MIN_IMAGES * groups, 0.8 * len(names))


def _count(values: Sequence[str]) -> str:
    counts = Counter(value for value in values if not is_missing(value))
    return f"{len(counts)} values for {sum(counts.values())} images"


def _is_dicom(case: Case) -> bool:
    from reslink.imaging.dicom.header import read_elements_until  # imports pydicom, which is slow

    return read_elements_until(case.path, 0x00080018) is not None
