"""File names that can be written to CSV and JSON."""

from __future__ import annotations

from typing import Final

from reslink.datasets.manifest import Case, Manifest

UNPRINTABLE: Final = "Names in a table must be printable and must not begin or end with a space. Rename the file"


def is_csv_safe(case: Case) -> bool:
    """Returns whether the paths of a case can be written to a CSV table: printable, without leading or trailing space."""
    names = [case.name, *([case.mask.name] if case.mask else [])]
    return all(name.isprintable() and name == name.strip() for name in names)


def drop_unprintable(manifest: Manifest) -> tuple[Manifest, dict[str, str]]:
    """Drops the cases whose file names cannot be written to CSV or JSON in UTF-8.

    Returns:
        The remaining cases, and the reason for each dropped case by its escaped name.
    """
    fits = [is_csv_safe(case) for case in manifest.cases]
    left_out = {escape_name(case.name): UNPRINTABLE for case, fit in zip(manifest.cases, fits, strict=True) if not fit}
    return manifest.subset(i for i, fit in enumerate(fits) if fit), left_out


def escape_name(name: str) -> str:
    """Returns a name unchanged if it is printable, otherwise with escapes."""
    return name if name.isprintable() and name == name.strip() else ascii(name)[1:-1]
