"""Failed audits that ``train`` repeats: which checks failed, by a hash of the images and labels.

They are kept in the cache folder of the user (``$XDG_CACHE_HOME/reslink/audits``, by default in ``~/.cache``), one small file
per data set. Its name is a hash, and its content the names of checks: no path, file name, label or patient. Nothing is kept
where that folder cannot be written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from reslink.errors import StorageError
from reslink.files import write_json


def remember_audit(digest: str, failed: Sequence[str]) -> None:
    """Keeps the names of the failed checks of a data set, or forgets an earlier failure if none failed.

    Args:
        digest: From :func:`reslink.datasets.manifest.images_digest`.
        failed: Names of the failed checks.
    """
    with suppress(OSError, StorageError):
        if failed:
            write_json(_record(digest), {"failed": list(failed)})
        else:
            _record(digest).unlink(missing_ok=True)


def failed_checks(digest: str) -> list[str]:
    """Returns the names of the checks that failed in the last audit of a data set; empty if none failed or none is known."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        return [str(name) for name in json.loads(_record(digest).read_bytes())["failed"]]
    return []


def _record(digest: str) -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return base / "reslink" / "audits" / f"{digest}.json"
