"""Cases that are in no metric: counted by reason, without the folders of their files."""

from __future__ import annotations

from reslink.bundles.scope import LITTLE_BRAIN
from reslink.reports.run.not_evaluated import not_evaluated


def test_cases_are_counted_by_reason_with_the_first_names() -> None:
    broken = {f"Doe^John/{i}.png": f"Doe^John/{i}.png is not an image. Convert the file." for i in range(5)}
    evaluation = {
        "failed": {"Doe^John/x.nii": "Doe^John/x.nii holds NaN. Repair it."} | broken,
        "excluded": [{"path": "a/1.png", "reason": "near duplicate of a training image"}],
        "refused": {"b/2.png": f"{LITTLE_BRAIN}: 3 % of the head", "b/3.png": f"{LITTLE_BRAIN}: 9 % of the head"},
    }
    assert [(row.kind, row.reason, row.n, row.names) for row in not_evaluated(evaluation)] == [
        ("could not be read", "the file is not an image", 5, "0.png, 1.png, 2.png and 2 more"),
        ("could not be read", "the file holds NaN", 1, "x.nii"),
        ("overlap with the training or calibration data", "near duplicate of a training image", 1, "1.png"),
        ("the model is not for it", LITTLE_BRAIN, 2, "2.png, 3.png"),
    ]
    assert not_evaluated({}) == not_evaluated(None) == []


def test_a_path_in_an_error_is_not_shown() -> None:
    rows = not_evaluated({"failed": {"x.png": "/data/Doe John/x.png is broken", "y.png": "other.png in /Doe/John is broken"}})
    assert [(row.reason, row.n) for row in rows] == [("other error", 2)]
