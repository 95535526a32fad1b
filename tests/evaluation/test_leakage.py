"""Leaked cases are excluded from the metrics and listed; a leaking split is refused."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from reslink.bundles.bundle import Bundle
from reslink.bundles.fingerprints import TrainingImages
from reslink.datasets import leakage
from reslink.datasets.cache.pixel_cache import PixelCache
from reslink.datasets.grouping import group_cases
from reslink.datasets.manifest import Manifest
from reslink.datasets.near_duplicates.fingerprints import make_fingerprints
from reslink.errors import CheckFailedError
from reslink.evaluation.evaluate import EvaluationOptions, evaluate_bundle
from reslink.imaging.preprocess import Preprocess
from reslink.labels import Labels
from reslink.networks.reslink import ResLinkConfig, build_network

PREPROCESS = Preprocess(size=64, channels=1)
Row = tuple[str, str, str, str]


def head(number: int) -> np.ndarray:
    """A head with folds of its own; two numbers give heads that are nothing alike."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[:128, :128]
    inside = np.hypot((y - 64) / 54, (x - 64) / 44) < 1
    group_folds = np.kron(rng.integers(40, 220, (16, 16)), np.ones((8, 8)))
    return np.asarray(inside * group_folds, np.uint8)


def write(root: Path, rows: Sequence[Row], pictures: dict[str, np.ndarray] | None = None) -> Manifest:
    """Writes the images ``NAME.png`` of rows (name, label, patient, split); the picture of a name is its number's head."""
    root.mkdir(parents=True, exist_ok=True)
    for name, *_ in rows:
        picture = (pictures or {}).get(name)
        Picture.fromarray(head(int(name)) if picture is None else picture).save(root / f"{name}.png")
    with (root / "manifest.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(
            [["path", "label", "patient_id", "split"], *([f"{name}.png", *rest] for name, *rest in rows)]
        )
    return Manifest.open(root)


def cohort(first: int, n: int, split: str, patients: bool = True) -> list[Row]:
    """n images of n / 2 patients, the two classes in turn."""
    return [(f"{i:03}", "ab"[i // 2 % 2], f"p{i // 2}" if patients else "", split) for i in range(first, first + n)]


def bundle_of(manifest: Manifest, folder: Path, *, fingerprints: bool = True) -> Path:
    """An untrained network that says it learned from the training cases of a manifest."""
    config = ResLinkConfig(stem_dim=8, dims=(8, 16), depths=(0, 1), in_channels=1)
    cache = PixelCache.open(manifest, PREPROCESS, folder / "cache", workers=0)
    sides = [case.split or "" for case in cache.manifest.cases]
    groups = group_cases(cache.manifest, cache.thumbnails, "both")
    images = leakage.fingerprint_training_images(cache.manifest, cache.thumbnails, groups, sides) if fingerprints else None
    architecture = {"name": "tiny", **config.model_dump(mode="json")}
    made = Bundle(architecture, PREPROCESS, Labels(("a", "b")), training_images=images)
    saved = made.save(folder / "bundle", build_network(config, seed=1).state_dict()).folder
    assert saved is not None
    return saved


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle trained on the heads 0 to 11, patients p0 to p5; heads 12 to 15 were its test."""
    folder = tmp_path_factory.mktemp("trained")
    return bundle_of(write(folder / "data", [*cohort(0, 12, "train"), *cohort(12, 4, "test")]), folder)


def evaluated(bundle: Path, manifest: Manifest, out: Path, **options: object) -> dict:
    found = evaluate_bundle(bundle, manifest, out, EvaluationOptions(device="cpu", localization=False, **options))
    assert found == json.loads((out / "evaluation.json").read_text())
    return found


def test_new_heads_are_all_evaluated(trained: Path, tmp_path: Path) -> None:
    found = evaluated(trained, write(tmp_path / "new", cohort(100, 12, "")), tmp_path / "out")
    assert (found["n"], found["n_excluded"], found["excluded"], found["leaked"]) == (12, 0, [], [])
    assert found["leakage"] == {
        "status": "none found",
        "n_leaked": 0,
        "message": "No case is a near duplicate of a training image",
    }
    assert "leakage" not in found["metrics"]["accuracy"]


@pytest.mark.parametrize("change", ["same", "mirrored", "turned", "darker", "smaller"])
def test_near_duplicates_of_training_images_are_excluded(trained: Path, tmp_path: Path, change: str) -> None:
    copy = {
        "same": head(3),
        "mirrored": head(3)[:, ::-1],
        "turned": np.rot90(head(3)),
        "darker": (head(3) * 0.7).astype(np.uint8),
        "smaller": np.asarray(Picture.fromarray(head(3)).resize((96, 96))),
    }[change]
    rows = [*cohort(100, 8, "", patients=False), ("900", "a", "", "")]
    found = evaluated(trained, write(tmp_path / "new", rows, {"900": copy}), tmp_path / "out")
    assert found["excluded"] == [{"path": "900.png", "reason": "near duplicate of a training image"}]
    assert (found["n"], found["n_excluded"], found["leakage"]["status"]) == (8, 1, "excluded")
    with (tmp_path / "out" / "predictions.csv").open(newline="") as stream:
        assert "900.png" not in {row["sample_id"] for row in csv.DictReader(stream)}


def test_a_near_duplicate_marks_its_whole_patient(trained: Path, tmp_path: Path) -> None:
    rows = [*cohort(100, 8, ""), ("900", "a", "x", ""), ("901", "a", "x", ""), ("902", "a", "", "")]
    pictures = {"900": head(3), "902": head(901)[::-1]}
    found = evaluated(trained, write(tmp_path / "new", rows, pictures), tmp_path / "out")
    assert {case["path"]: case["reason"] for case in found["excluded"]} == {
        "900.png": leakage.NEAR_DUPLICATE,
        "901.png": leakage.SAME_PATIENT,
        "902.png": leakage.SAME_GROUP,
    }


def test_the_same_patient_number_elsewhere_is_another_person(trained: Path, tmp_path: Path) -> None:
    rows = [(name, label, f"p{i // 2}", "") for i, (name, label, *_) in enumerate(cohort(100, 8, ""))]
    assert evaluated(trained, write(tmp_path / "new", rows), tmp_path / "out")["n"] == 8


def test_allowed_leakage_marks_every_metric(trained: Path, tmp_path: Path) -> None:
    manifest = write(tmp_path / "new", [*cohort(0, 4, ""), *cohort(100, 8, "")])
    found = evaluated(trained, manifest, tmp_path / "out", allow_leakage=True)
    assert (found["n"], found["n_excluded"], found["leakage"]["status"]) == (12, 0, "allowed")
    assert found["leakage"]["message"].startswith("4 of 12 cases overlap with the training data and were evaluated")
    assert [case["path"] for case in found["leaked"]] == [f"00{i}.png" for i in range(4)]
    estimates = [*found["metrics"].values(), *(value for label in found["per_class"].values() for value in label.values())]
    assert all(value["leakage"] is True for value in estimates)


def child_of(parent: Path, folder: Path, manifest: Manifest | None = None) -> Path:
    """A bundle that was fine-tuned from another one, on the training cases of a manifest or on nothing."""
    trained_on = TrainingImages(np.zeros((0, 128), np.uint8), np.zeros((0, 32), np.uint8))
    if manifest is not None:
        cache = PixelCache.open(manifest, PREPROCESS, folder / "cache", workers=0)
        trained_on = TrainingImages(make_fingerprints(np.asarray(cache.thumbnails)), trained_on.cleared)
    made = Bundle.load(parent)
    child = replace(made, training_images=trained_on, lineage=made.lineage_of_child(), onnx_model=None)
    saved = child.save(folder / "child", made.network().state_dict()).folder
    assert saved is not None
    return saved


def test_what_an_ancestor_saw_is_excluded_from_the_evaluation_of_its_child(trained: Path, tmp_path: Path) -> None:
    child = child_of(trained, tmp_path, write(tmp_path / "own", cohort(300, 4, "train")))
    grandchild = child_of(child, tmp_path / "next")
    rows = [("900", "a", "x", ""), *cohort(2, 1, ""), *cohort(300, 2, ""), *cohort(100, 8, "")]
    manifest = write(tmp_path / "new", rows, {"900": head(5)[:, ::-1]})
    for bundle in (child, grandchild):
        result = evaluated(bundle, manifest, tmp_path / bundle.parent.name)
        assert [case["path"] for case in result["excluded"]] == ["900.png", "002.png", "300.png", "301.png"]
        assert (result["n"], result["leakage"]["status"]) == (8, "excluded")
    assert evaluated(trained, manifest, tmp_path / "parent")["n"] == 10


def test_a_child_is_unknown_if_its_parent_is(tmp_path: Path) -> None:
    manifest = write(tmp_path / "data", cohort(0, 8, "train"))
    child = child_of(bundle_of(manifest, tmp_path, fingerprints=False), tmp_path)
    for known in (None, {}):  # in an evaluation, and at the end of the training
        result = evaluated(child, manifest, tmp_path / "out", leaked_cases=known)
        assert result["leakage"]["status"] == "unknown"
        assert "or of those of an ancestor" in result["leakage"]["message"]


def test_training_images_alone_are_refused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckFailedError, match="All 4 images overlap with the training data"):
        evaluated(trained, write(tmp_path / "new", cohort(0, 4, "")), tmp_path / "out")
    assert not (tmp_path / "out" / "evaluation.json").exists()


def test_leakage_is_unknown_without_fingerprints(tmp_path: Path) -> None:
    manifest = write(tmp_path / "data", cohort(0, 8, "train"))
    found = evaluated(bundle_of(manifest, tmp_path, fingerprints=False), manifest, tmp_path / "out")
    assert (found["n"], found["leakage"]["status"], found["leakage"]["n_leaked"]) == (8, "unknown", None)


class TestStatedSplit:
    def test_a_clean_split(self, trained: Path, tmp_path: Path) -> None:
        manifest = write(tmp_path / "data", [*cohort(0, 12, "train"), *cohort(100, 8, "test")])
        assert evaluated(trained, manifest, tmp_path / "out", split="test")["leakage"]["status"] == "none found"

    @pytest.mark.parametrize("fingerprints", [True, False])
    def test_a_patient_in_both_splits(self, tmp_path: Path, fingerprints: bool) -> None:
        rows = [*cohort(0, 12, "train"), *cohort(100, 8, "test"), ("200", "a", "p1", "test")]
        manifest = write(tmp_path / "data", rows)
        bundle = bundle_of(manifest, tmp_path, fingerprints=fingerprints)
        with pytest.raises(
            CheckFailedError, match=r"1 of 9 cases of the split 'test' .* the first is 200.png \(patient of the training"
        ):
            evaluated(bundle, manifest, tmp_path / "out", split="test")
        found = evaluated(bundle, manifest, tmp_path / "out", split="test", allow_leakage=True)
        assert (found["n"], found["leaked"]) == (9, [{"path": "200.png", "reason": leakage.SAME_PATIENT}])

    def test_a_near_duplicate_in_both_splits(self, trained: Path, tmp_path: Path) -> None:
        rows = [*cohort(0, 12, "train", patients=False), *cohort(100, 8, "test"), ("900", "a", "", "test")]
        manifest = write(tmp_path / "data", rows, {"900": head(5)[::-1]})
        with pytest.raises(
            CheckFailedError, match=r"1 of 9 cases of the split 'test' .* 900.png \(near duplicate of a training image"
        ):
            evaluated(trained, manifest, tmp_path / "out", split="test")

    def test_training_cases_that_the_bundle_was_not_trained_on_do_not_count(self, trained: Path, tmp_path: Path) -> None:
        rows = [*cohort(300, 8, "train"), *cohort(100, 8, "test"), ("900", "a", "p150", "test")]
        manifest = write(tmp_path / "data", rows, {"900": head(301)})
        assert evaluated(trained, manifest, tmp_path / "out", split="test")["n"] == 9


def test_leaked_cases_known_from_the_split_are_used(trained: Path, tmp_path: Path) -> None:
    manifest = write(tmp_path / "new", cohort(0, 8, ""))
    found = evaluated(trained, manifest, tmp_path / "out", leaked_cases={"001.png": leakage.SAME_PATIENT}, allow_leakage=True)
    assert found["leaked"] == [{"path": "001.png", "reason": leakage.SAME_PATIENT}]
    assert evaluated(trained, manifest, tmp_path / "out", leaked_cases={})["leakage"]["status"] == "none found"


def test_an_image_exempted_at_training_is_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two heads that a loose fingerprint links, but the comparison at training told apart."""

    monkeypatch.setattr("reslink.datasets.leakage.matched_queries", lambda _, new: dict.fromkeys(range(len(new.planes)), 0.85))
    manifest = write(tmp_path / "data", [*cohort(0, 8, "train"), *cohort(100, 4, "test")])
    bundle = bundle_of(manifest, tmp_path)
    assert evaluated(bundle, manifest, tmp_path / "out", split="test")["n"] == 4
    assert evaluated(bundle, manifest, tmp_path / "out")["n_excluded"] == 8
    others = write(tmp_path / "others", cohort(200, 4, ""))
    with pytest.raises(CheckFailedError, match="All 4 images"):
        evaluated(bundle, others, tmp_path / "out")
