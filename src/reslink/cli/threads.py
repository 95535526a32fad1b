"""How many threads the user allows."""

from __future__ import annotations

import os


def wanted_threads() -> int | None:
    """Returns the number in ``OMP_NUM_THREADS``, which torch follows too; None where it holds none."""
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else None
