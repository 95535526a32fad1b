"""Whether an evaluation is external is decided by file hashes and fingerprints."""

from __future__ import annotations

from typing import Any

import pytest

from reslink.reports.checklist.origin import origin_of
from reslink.reports.run.run_folder import Row, RunFolder

RUN = RunFolder("run", splits=[{"sample_id": name, "sha256": name * 64} for name in "abcd"])


def rows(names: str) -> list[Row]:
    return [{"path": f"{name}.png", "sha256": name * 64} for name in names]


@pytest.mark.parametrize(
    ("names", "evaluation", "kind"),
    [
        ("wxyz", {}, "external"),
        ("abcd", {}, "internal (held-out)"),
        ("abxy", {}, "internal (held-out)"),
        ("axyz", {}, "partly internal"),
        ("xyz", {"excluded": [{"path": "d.png"}]}, "external"),  # one near duplicate of a training image, left out
        ("z", {"excluded": [{"path": "d.png"}, {"path": "e.png"}]}, "internal (held-out)"),
        ("wxyz", {"leaked": [{"path": "w.png"}]}, "partly internal"),  # evaluated with --allow-leakage
    ],
)
def test_the_share_of_the_runs_images_decides(names: str, evaluation: dict[str, Any], kind: str) -> None:
    assert origin_of(RUN, evaluation, rows(names)).kind == kind


def test_the_reason_counts_the_images() -> None:
    origin = origin_of(RUN, {"excluded": [{"path": "d.png"}]}, rows("axyz"))
    assert origin.reason == "1 of 4 images are in the data of the run, 1 more overlap with its training data and were left out"


def test_an_evaluation_folder_without_a_split_is_compared_by_its_predictions() -> None:
    assert origin_of(RunFolder("evaluated", prediction_rows=rows("ab")), {}, rows("ab")).kind == "internal (held-out)"


def test_without_hashes_it_is_unknown() -> None:
    assert origin_of(RUN, {}, [{"path": "a.png"}]).kind == "unknown"
    assert origin_of(RunFolder("run"), {}, rows("a")).kind == "unknown"
