"""How people spell units and MR sequences in options, tables and requests; without slow imports, for the command line."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from reslink.errors import UsageError, suggest

if TYPE_CHECKING:
    from reslink.imaging.image import Unit

UNITS: Final[tuple[Unit, ...]] = ("HU", "MR", "gray")
UNIT_NAMES: Final[dict[str, Unit]] = {"hu": "HU", "mr": "MR", "gray": "gray", "grey": "gray"}
"""How people spell the units, in lower case."""


def parse_unit(text: str | None) -> Unit | None:
    """Returns the unit named by ``hu``, ``mr`` or ``gray``, in any case; None for None.

    Raises:
        UsageError: If there is no such unit.
    """
    if text is None:
        return None
    unit = UNIT_NAMES.get(text.strip().casefold())
    if unit is None:
        raise UsageError(f"The unit {text!r} is not valid", "The units are HU, MR and gray", suggest(text, UNITS))
    return unit


WITH_CONTRAST: Final = "T1C+"
"""T1 after a contrast agent, which shows other tissue than T1 without one."""

_SPELLINGS: Final[dict[str, str]] = {
    "T1": "t1 t1n t1native t1unenhanced t1pre t1pregd t1precontrast t1nocontrast t1noncontrast t1withoutcontrast t1c- t1ce- "
    "t1flair",
    WITH_CONTRAST: "t1c+ t1+c t1c t1ce t1ce+ t1+ce cet1 cet1w t1gd t1+gd t1gd+ gdt1 gdt1w t1gad t1post t1postgd t1postgad "
    "t1contrast t1contrastenhanced t1km t1withcontrast t1postcontrast t1aftercontrast contrastenhancedt1 contrastenhancedt1w",
    "T2": "t2",
    "FLAIR": "flair t2flair flairt2 t2f fluidattenuated",
    "T2*": "t2* t2star swi t2starw gre",
    "PD": "pd pdw protondensity",
    "DWI": "dwi diffusion adc",
    "STIR": "stir",
    "perfusion": "perfusion dsc dce asl",
    "angiography": "angiography mra tof",
}
"""How people spell the sequences, as :func:`_key` writes them."""

_NAMES: Final[dict[str, str]] = {spelling: name for name, words in _SPELLINGS.items() for spelling in words.split()}


def parse_sequence(text: str | None) -> str | None:
    """Returns the name of a sequence: T1, T1C+, T2, FLAIR, T2*, PD, DWI, STIR, perfusion or angiography; None for None.

    Args:
        text: Any usual spelling, such as ``T1w``, ``t1ce`` or ``T2 FLAIR``. Another text is returned as it is, and names a
            sequence of its own.

    Raises:
        UsageError: If the text is empty.
    """
    if text is None:
        return None
    if not text.strip():
        raise UsageError(
            "The sequence is empty", f"Sequences are {', '.join(_SPELLINGS)} and others", "Leave it out if it is not known"
        )
    return _NAMES.get(_key(text), text.strip())


def is_sequence(text: str) -> bool:
    """Returns whether a text is a spelling that ``parse_sequence`` knows."""
    return _key(text) in _NAMES


def _key(text: str) -> str:
    """Returns a spelling in lower case, without separators (but the hyphen of ``T1 C-``) and without *weighted*."""
    key = re.sub(r"[\s._()]|-(?!\)?$)", "", text.strip().casefold())
    return re.sub(r"^t([12])(?:weighted|wi(?!th)|w(?!ith))", r"t\1", key)
