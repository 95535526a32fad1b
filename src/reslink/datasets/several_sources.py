"""What needs cases of several sources: checked the same way everywhere."""

from __future__ import annotations

from reslink.datasets.manifest import Manifest
from reslink.errors import UsageError


def check_several_sources(manifest: Manifest, option: str, effect: str) -> None:
    """Checks that cases come from two or more sources; cases without one are one more.

    Args:
        manifest: The cases.
        option: The option or setting that needs several sources, such as ``--per-source``.
        effect: What it does with two or more sources, as a sentence without a full stop.

    Raises:
        UsageError: If they state one source, or none.
    """
    stated = {case.source for case in manifest.cases}
    if len(stated) < 2:
        raise UsageError(
            f"{option} is set, and the images state {'one source' if any(stated) else 'no source'}",
            effect,
            f"Name the column of the hospital or scanner with --columns source=COLUMN, or leave {option} out",
        )


def check_per_source(manifest: Manifest, per_source: bool) -> None:
    """Checks that the coverage can be held within each source, if it is requested.

    Raises:
        UsageError: As :func:`check_several_sources`.
    """
    if per_source:
        check_several_sources(manifest, "--per-source", "It holds the coverage within each of two or more sources")
