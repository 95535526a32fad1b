"""The Basic Application Level Confidentiality Profile of DICOM: which attributes identify a person, and the action for each.

The table is DICOM PS3.15 (2026c) Table E.1-1, column "Basic Profile", kept in ``basic_profile.csv``. It is implemented here
because the maintained library (dicom-anonymizer) applies most of the table to the outermost level only, keeps removed dates as
elements, and stores the replaced UIDs in a global variable.
"""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Callable
from importlib import resources
from typing import Any, Final

from pydicom import DataElement, Dataset
from pydicom.datadict import keyword_for_tag
from pydicom.tag import BaseTag

METHOD: Final = ("Basic Application Level Confidentiality Profile", "DICOM PS3.15 2026c Table E.1-1", "reslink")

_DUMMIES: Final[dict[str, Any]] = {
    **dict.fromkeys(("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UT"), "ANONYMIZED"),
    **dict.fromkeys(("DS", "IS"), "0"),
    **dict.fromkeys(("FD", "FL", "SL", "SS", "SV", "UL", "US", "UV"), 0),
    "AS": "000Y",
    "DA": "19000101",
    "DT": "19000101000000",
    "TM": "000000",
    "UR": "http://anonymized.invalid",
}


@functools.cache
def _table() -> tuple[dict[int, str], list[tuple[str, str]]]:
    """Returns the action by tag, and patterns (``60xx3000``) with their action for repeating groups."""
    text = (resources.files("reslink.audit") / "basic_profile.csv").read_text()
    rows = [(row["tag"], row["action"]) for row in csv.DictReader(io.StringIO(text))]
    plain = {int(tag, 16): action for tag, action in rows if "x" not in tag}
    return plain, [(tag, action) for tag, action in rows if "x" in tag]


def action_of(tag: BaseTag) -> str | None:
    """Returns the profile's action for an attribute.

    Args:
        tag: Group and element.

    Returns:
        The code of PS3.15 Table E.1-1a: ``X`` remove, ``Z`` empty, ``D`` dummy value, ``U`` new UID, or a combination such
        as ``X/Z/D``; ``X`` for private attributes; None if the attribute may stay.
    """
    if tag.is_private:
        return "X"
    plain, patterns = _table()
    if tag in plain:
        return plain[tag]
    number = f"{int(tag):08X}"
    for pattern, action in patterns:
        if all(p in ("x", n) for p, n in zip(pattern, number, strict=True)):
            return action
    return None


def name_of(tag: BaseTag) -> str:
    """Returns the attribute's keyword, or its number if it has none."""
    return keyword_for_tag(tag) or f"({tag.group:04X},{tag.element:04X})"


def is_empty_or_dummy(element: DataElement) -> bool:
    """Whether an attribute has no value, or the value that :func:`deidentify` writes."""
    value = element.value
    if element.VR == "SQ":
        return len(value) == 0
    if element.is_empty or not str(value).strip("\0 "):
        return True
    dummy = _DUMMIES.get(element.VR)
    return dummy is not None and str(value) == str(dummy)


def deidentify(dataset: Dataset, new_uid: Callable[[str], str]) -> list[str]:
    """Applies the profile to a data set in place, at every level.

    If the table leaves a choice that depends on the information object (``X/Z/D``), the action that keeps the object valid is
    used: a dummy value before an empty one, an empty one before removal. ``PatientIdentityRemoved``,
    ``DeidentificationMethod`` and ``LongitudinalTemporalInformationModified`` are set as PS3.15 E.1.1 requires.

    Args:
        dataset: A data set whose file meta information the caller replaces.
        new_uid: Returns the replacement of a UID, always the same one for the same UID.

    Returns:
        Keywords of the changed attributes, sorted and unique.
    """
    changed: set[str] = set()
    _clean(dataset, new_uid, changed)
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = list(METHOD)
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator = "113100", "DCM"
    code.CodeMeaning = "Basic Application Confidentiality Profile"
    dataset.DeidentificationMethodCodeSequence = [code]
    dataset.LongitudinalTemporalInformationModified = "REMOVED"
    return sorted(changed)


def _clean(dataset: Dataset, new_uid: Callable[[str], str], changed: set[str]) -> None:
    for element in list(dataset):
        action = action_of(element.tag)
        if action is not None and _apply(dataset, element, action, new_uid):
            changed.add("private attributes" if element.tag.is_private else name_of(element.tag))
        if element.tag in dataset and element.VR == "SQ":
            for item in dataset[element.tag].value:
                _clean(item, new_uid, changed)


def _apply(dataset: Dataset, element: DataElement, action: str, new_uid: Callable[[str], str]) -> bool:
    """Changes one attribute; returns whether it had a value."""
    had_value = not is_empty_or_dummy(element)
    if action == "X":
        del dataset[element.tag]
    elif element.VR == "SQ":
        if "U" not in action:  # in sequences of references, the UIDs inside are replaced instead
            element.value = []
    elif element.VR == "UI":
        _replace_uids(element, new_uid)
    elif element.is_empty:
        return False
    elif "D" in action and element.VR in _DUMMIES:
        element.value = _DUMMIES[element.VR]
    elif "D" in action or "Z" in action:
        element.value = None
    return had_value


def _replace_uids(element: DataElement, new_uid: Callable[[str], str]) -> None:
    if element.VM > 1:
        element.value = [new_uid(str(value)) for value in element.value]
    elif not element.is_empty:
        element.value = new_uid(str(element.value))
