"""Where an audit and a clean copy may be written: asked before the first file is read, not after the last."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from reslink.cli.command import refuse_earlier, refuse_file
from reslink.errors import UsageError

if TYPE_CHECKING:
    from reslink.datasets.manifest import Manifest


def check_out(out: Path, manifest: Manifest, overwrite: bool) -> None:
    """Refuses a folder for the audit that holds one already, cannot be written to, or would become a class of the data.

    Raises:
        UsageError: If it is one of these.
    """
    refuse_earlier(out, "audit.json", "an audit", overwrite)
    root = manifest.root.resolve()
    if not manifest.columns and out.resolve().is_relative_to(root):
        raise UsageError(
            f"--out {out} lies inside the class folders {root}",
            "Each folder in there is a class of the data set, and an audit is none",
            "Choose a folder elsewhere with --out",
        )
    _check_writable(out, "--out")


def check_fix(fix: Path, manifest: Manifest, out: Path | None) -> None:
    """Refuses a folder for the clean copy that is not new or empty, not apart from data and audit, or cannot be written.

    Raises:
        UsageError: If it is one of these.
    """
    from reslink.audit.clean_copy.clean_copy import check_apart

    refuse_file(fix, "--fix")
    check_apart(fix.absolute(), manifest)
    if out is not None and out.resolve().is_relative_to(fix.resolve()):
        raise UsageError(
            f"The audit would be written to {out}, inside the clean copy {fix}",
            "A clean copy is passed on without the audit, which names its sources",
            "Choose another --out or --fix",
        )
    _check_writable(fix.absolute().parent, "--fix")


def _check_writable(folder: Path, option: str) -> None:
    """Tries it in the folder, or in the nearest one above it that exists."""
    there = next((place for place in (folder, *folder.absolute().parents) if place.exists()), folder)
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise UsageError(
            f"{there} cannot be written to: {error.strerror or error}",
            f"{option} names a folder that reslink may write to",
            f"Choose another folder with {option}",
        ) from error
