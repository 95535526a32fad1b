"""The names of the units in options, tables and requests; without slow imports, for the command line."""

from __future__ import annotations

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
