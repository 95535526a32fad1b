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


SPLIT_RUN = RunFolder(
    "run",
    splits=[
        {"sample_id": name, "sha256": name * 64, "split": split}
        for name, split in zip("abcdef", ["train", "train", "validation", "test", "test", "train"], strict=True)
    ],
)


@pytest.mark.parametrize(
    ("names", "evaluation", "kind", "reason"),
    [
        ("ab", {}, "internal (training data)", "2 of 2 images are in the data of the run (2 train)"),
        ("c", {}, "internal (training data)", "1 of 1 images are in the data of the run (1 validation)"),
        ("de", {}, "internal (held-out)", "2 of 2 images are in the data of the run"),
        ("abcde", {}, "internal (training data)", "5 of 5 images are in the data of the run (2 train, 1 validation, 2 test)"),
        ("dea", {}, "internal (training data)", "3 of 3 images are in the data of the run (1 train, 2 test)"),
        ("axyz", {}, "partly internal", "1 of 4 images are in the data of the run (1 train)"),
        ("dxyz", {}, "partly internal", "1 of 4 images are in the data of the run"),
        (
            "dz",
            {"leaked": [{"path": "z.png"}]},
            "internal (training data)",
            "2 of 2 images are in the data of the run (1 test)",
        ),
    ],
)
def test_images_of_training_and_validation_are_not_held_out(
    names: str, evaluation: dict[str, Any], kind: str, reason: str
) -> None:
    origin = origin_of(SPLIT_RUN, evaluation, rows(names))
    assert (origin.kind, origin.reason) == (kind, reason)


def test_a_file_in_two_splits_is_not_held_out() -> None:
    twice = [{"sample_id": str(i), "sha256": "a" * 64, "split": split} for i, split in enumerate(("train", "test"))]
    for splits in (twice, twice[::-1]):
        assert origin_of(RunFolder("run", splits=splits), {}, rows("a")).kind == "internal (training data)"


def test_the_reason_counts_the_images() -> None:
    origin = origin_of(RUN, {"excluded": [{"path": "d.png"}]}, rows("axyz"))
    assert origin.reason == "1 of 4 images are in the data of the run, 1 more overlap with its training data and were left out"


def test_an_evaluation_folder_without_a_split_is_compared_by_its_predictions() -> None:
    assert origin_of(RunFolder("evaluated", prediction_rows=rows("ab")), {}, rows("ab")).kind == "internal (held-out)"
    of_other_data = [row | {"split": "train"} for row in rows("ab")]
    assert origin_of(RunFolder("evaluated", prediction_rows=of_other_data), {}, rows("ab")).kind == "internal (held-out)"


def test_without_hashes_it_is_unknown() -> None:
    assert origin_of(RUN, {}, [{"path": "a.png"}]).kind == "unknown"
    assert origin_of(RunFolder("run"), {}, rows("a")).kind == "unknown"


@pytest.mark.parametrize(
    ("leakage", "images"), [({"status": "none found"}, "test images"), ({"status": "unknown"}, "images"), (None, "images")]
)
def test_external_data_say_what_could_not_be_compared(leakage: dict[str, Any] | None, images: str) -> None:
    """Copies of training images in another format are found by the fingerprints of the bundle, if it has them."""
    reason = origin_of(RUN, {"leakage": leakage}, rows("xyz")).reason
    assert reason == (
        f"none of the 3 files is in the data of the run; copies of its {images} in another file format are not recognized"
    )
