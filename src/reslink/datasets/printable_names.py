"""Names that a table, a list and a page can hold."""

from __future__ import annotations

from typing import Final

from reslink.datasets.manifest import Case, Manifest

UNLISTABLE: Final = "A name in a table is printable and has no space at an end. Rename the file"


def fits_a_table(case: Case) -> bool:
    """Returns whether a case's paths can stand in a CSV table: printable, no space at an end."""
    names = [case.name, *([case.mask.name] if case.mask else [])]
    return all(name.isprintable() and name == name.strip() for name in names)


def listable(manifest: Manifest) -> tuple[Manifest, dict[str, str]]:
    """Leaves out files whose names no CSV and no JSON in UTF-8 can hold.

    Returns:
        The other cases, and by name, written with escapes, the reason why a case is left out.
    """
    fits = [fits_a_table(case) for case in manifest.cases]
    left_out = {printable(case.name): UNLISTABLE for case, fit in zip(manifest.cases, fits, strict=True) if not fit}
    return manifest.subset(i for i, fit in enumerate(fits) if fit), left_out


def printable(name: str) -> str:
    """Returns a name as it is, or with escapes where it holds what cannot be printed."""
    return name if name.isprintable() and name == name.strip() else ascii(name)[1:-1]
