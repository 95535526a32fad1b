"""The limits are those of the user guide, and consistent with each other."""

from __future__ import annotations

import re
from pathlib import Path

from reslink.serving.http.limits import MIB, Limits

GUIDE = Path(__file__).resolve().parents[3] / "docs" / "user-guide" / "serve.md"


def test_the_user_guide_states_the_defaults() -> None:
    limits = Limits()
    rows = dict(re.findall(r"^\| (.+?) \| (.+?) \|$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE))
    assert rows["request size, unpacked archive size"] == f"{limits.body_bytes // MIB} MiB each"
    assert limits.unpacked_bytes == limits.body_bytes
    assert rows["files per request"] == str(limits.files)
    assert rows["slices per request"] == str(limits.slices)
    assert rows["concurrent requests"] == str(limits.concurrent_requests)
    assert rows["memory of all requests, including prepared images"] == f"{limits.held_bytes // (1024 * MIB)} GiB"
    assert f"in {limits.body_seconds:.0f} s" in rows["slow client"]


def test_one_request_fits_into_the_memory_of_all() -> None:
    limits = Limits()
    assert limits.body_bytes + limits.unpacked_bytes <= limits.held_bytes
    assert limits.batch_size <= limits.slices
