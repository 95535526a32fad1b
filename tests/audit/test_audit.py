"""The whole audit on phantoms with planted faults, on sound ones, and on small or broken data sets."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image as Picture

from reslink.audit.audit import audit
from reslink.datasets.manifest import Manifest
from reslink.datasets.phantom.cohort import PhantomSettings, make_cohort
from reslink.errors import UsageError
from reslink.reports.audit.page import audit_report

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("few_trees")]

FAULTS = {"text": 0.8, "wrong_labels": 0.05, "mirrored_duplicates": 0.05, "duplicates": 0.05}


def cohort(folder: Path, **settings: Any) -> Path:
    make_cohort(folder, PhantomSettings.parse({"patients": 80, "slices": 1, "size": 160, **settings}))
    return folder


def audited(folder: Path) -> dict[str, Any]:
    result = audit(Manifest.open(folder, for_training=False), workers=0)
    json.dumps(result, allow_nan=False)
    return result


def checks(result: dict[str, Any]) -> dict[str, bool]:
    return {check["check"]: check["failed"] for check in result["checks"]}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cohort(tmp_path_factory.mktemp("planted"), seed=3, faults=FAULTS)


@pytest.fixture(scope="module")
def result(planted: Path, few_trees: None) -> dict[str, Any]:
    return audited(planted)


@pytest.fixture(scope="module")
def truth(planted: Path) -> dict[str, list[dict[str, str]]]:
    return json.loads((planted / "faults.json").read_text())


class TestPlantedFaults:
    def test_fail_the_audit(self, result: dict[str, Any]) -> None:
        assert result["verdict"] == "fail"
        assert checks(result)["outside_head"]
        assert not checks(result)["file_metadata"]

    def test_the_text_shortcut_is_described(self, result: dict[str, Any]) -> None:
        [reason] = [check["reason"] for check in result["checks"] if check["check"] == "outside_head"]
        assert reason.startswith("without seeing the brain, from the pixels outside the head alone, ")
        assert "a model reaches a balanced accuracy of 0." in reason

    def test_near_duplicates_are_listed_in_all_orientations(self, result: dict[str, Any], truth: dict[str, Any]) -> None:
        group = {name: number for number, names in enumerate(result["near_duplicates"]) for name in names}
        pairs = truth["duplicates"] + truth["mirrored_duplicates"]
        together = [group.get(pair["path"], -1) == group.get(pair["duplicate_of"], -2) for pair in pairs]
        assert len(pairs) == 8
        assert sum(together) >= 7

    def test_flipped_labels_come_first(self, result: dict[str, Any], truth: dict[str, Any]) -> None:
        flipped = {wrong["path"] for wrong in truth["wrong_labels"]}
        first = {error["path"] for error in result["suspected_label_errors"][: result["images"] // 10]}
        assert len(flipped) == 4
        assert len(flipped & first) / len(flipped) >= 0.7

    def test_a_suspect_names_both_labels(self, result: dict[str, Any]) -> None:
        worst = result["suspected_label_errors"][0]
        assert {worst["given"], worst["suggested"]} == {"Healthy", "Tumor"}
        assert 0 <= worst["score"] < 0.5

    def test_burned_in_text_is_listed(self, result: dict[str, Any], truth: dict[str, Any]) -> None:
        lettered = {case["path"] for case in truth["text"]}
        listed = lettered & set(result["burned_in_text"])
        assert len(listed) / len(lettered) >= 0.9


@pytest.fixture(scope="module")
def on_disk(planted: Path, few_trees: None) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reslink.audit.stored_features.MAX_IN_MEMORY", 60)
        patch.setattr("reslink.audit.stored_features.GROUP_ROWS", 25)
        return audited(planted)


@pytest.fixture(scope="module")
def sampled(planted: Path, few_trees: None) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reslink.audit.stored_features.MAX_IN_MEMORY", 60)
        patch.setattr("reslink.audit.sampling.MAX_CASES", 60)
        patch.setattr("reslink.audit.sampling.MIN_CASES_OF_CLASS", 20)
        return audited(planted)


class TestLargeDataSet:
    """The same cohort, as if 60 files were many."""

    def test_features_on_disk_give_the_same_audit(self, on_disk: dict[str, Any], result: dict[str, Any]) -> None:
        assert json.dumps(on_disk) == json.dumps(result)

    def test_pairs_that_are_left_out_are_stated(
        self, planted: Path, result: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("reslink.audit.audit.similar_rows.BOUND_MIN_IMAGES", 60)
        name, reasons = "near_duplicates: less similar pairs", []
        for index_from in (10**6, 60):
            monkeypatch.setattr("reslink.audit.audit.similar_rows.INDEX_MIN_IMAGES", index_from)
            reasons.append({entry["check"]: entry["reason"] for entry in audited(planted)["skipped_checks"]}[name])
        assert reasons[0] == (
            "each image was compared with the 16 that are most similar to it; "
            "of many copies of one image, some pairs are not listed"
        )
        assert reasons[1] == f"{reasons[0]}. Among more than 60 images, an index finds them, and misses some"
        assert "near_duplicates" not in str([entry["check"] for entry in result["skipped_checks"]])

    def test_samples_are_stated(self, sampled: dict[str, Any], result: dict[str, Any]) -> None:
        total = result["images"]
        sizes = {probe["probe"]: probe["sample"] for probe in sampled["shortcuts"]}
        assert all(size["of"] == total and size["images"] <= 60 for size in sizes.values())
        assert sizes["histogram"]["images"] == 60
        reasons = [check["reason"] for check in sampled["checks"] if check["check"] in ("outside_head", "file_metadata")]
        assert all(f"of {total} images" in reason for reason in reasons)
        assert sampled["label_error_source"] == f"quick model fitted on a sample of 60 of {total} images"

    def test_what_needs_no_model_does_not_change(self, sampled: dict[str, Any], result: dict[str, Any]) -> None:
        same = ("near_duplicate_pairs", "groups", "label_conflicts", "files", "text_boxes", "identity", "data_digest")
        assert [sampled[key] for key in same] == [result[key] for key in same]

    def test_label_errors_outside_the_sample_are_found(self, sampled: dict[str, Any], truth: dict[str, Any]) -> None:
        wrong = {entry["path"] for entry in truth["wrong_labels"]}
        assert wrong & {error["path"] for error in sampled["suspected_label_errors"]}

    def test_the_page_states_the_sample(self, sampled: dict[str, Any], planted: Path, tmp_path: Path) -> None:
        page = audit_report(sampled, Manifest.open(planted, for_training=False), tmp_path).read_text()
        assert f"sample of 60 of {sampled['images']} images" in page
        assert f"A simple model fitted on a sample of 60 of {sampled['images']} images, on other patients and groups," in page


def test_the_same_seed_gives_the_same_audit(tmp_path: Path) -> None:
    cohort(tmp_path, patients=10, slices=1)
    assert audited(tmp_path) == audited(tmp_path)


def test_a_scanner_shortcut_is_reported(tmp_path: Path) -> None:
    cohort(tmp_path, patients=30, slices=1, seed=5, format="dicom")
    for case in Manifest.open(tmp_path).cases:
        item = pydicom.dcmread(case.path)
        item.ManufacturerModelName = "One" if case.label == "Tumor" else "Other"
        item.save_as(case.path)
    result = audited(tmp_path)
    assert checks(result)["file_metadata"]
    assert result["shortcuts"][0]["top_features"] == ["ManufacturerModelName"]
    assert "One" not in json.dumps(result)


@pytest.mark.parametrize(("seed", "form"), [(0, "png"), (1, "dicom")])
def test_a_sound_cohort_passes(tmp_path: Path, seed: int, form: str) -> None:
    """The documentation reports twenty seeds; two are tested here."""
    result = audited(cohort(tmp_path, patients=24, seed=seed, format=form))
    assert (result["verdict"], [check for check in result["checks"] if check["failed"]]) == ("pass", [])
    assert result["near_duplicates"] == []
    assert result["skipped_checks"] == []


def test_a_split_by_patient_passes_and_one_by_slice_fails(tmp_path: Path) -> None:
    cohort(tmp_path, patients=8, slices=3)
    table = tmp_path / "manifest.csv"
    rows = list(csv.DictReader(table.read_text().splitlines()))

    def audit_with_split(splits: list[str]) -> dict[str, Any]:
        with table.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, [*rows[0], "split"])
            writer.writeheader()
            writer.writerows({**row, "split": split} for row, split in zip(rows, splits, strict=True))
        return audited(tmp_path)

    by_patient = audit_with_split(["test" if int(row["patient_id"][1:]) % 4 == 0 else "train" for row in rows])
    assert (checks(by_patient)["group_leakage"], by_patient["group_leakage"]) == (False, [])
    by_slice = audit_with_split(["test" if i % 3 == 0 else "train" for i, _ in enumerate(rows)])
    assert by_slice["verdict"] == "fail"
    assert {leak["kind"] for leak in by_slice["group_leakage"]} >= {"patient"}
    assert "P0001" not in json.dumps([{**leak, "paths": []} for leak in by_slice["group_leakage"]])


def test_one_image_under_two_labels_is_a_conflict(tmp_path: Path) -> None:
    cohort(tmp_path / "all", patients=12, slices=1)
    manifest = Manifest.open(tmp_path / "all")
    for case in manifest.cases:
        copy = tmp_path / "data" / case.label / case.path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(case.path.read_bytes())
    first = next(case for case in manifest.cases if case.label == "Healthy")
    (tmp_path / "data" / "Tumor" / "again.png").write_bytes(first.path.read_bytes())
    result = audited(tmp_path / "data")
    assert [sorted(names) for names in result["label_conflicts"]] == [[f"Healthy/{first.path.name}", "Tumor/again.png"]]
    assert checks(result)["label_conflicts"]


class TestLittleToAudit:
    def test_one_class_reports_skipped_checks(self, tmp_path: Path) -> None:
        cohort(tmp_path / "all", patients=4, slices=1, tumor_share=0.0)
        result = audited(tmp_path / "all")
        assert result["images"] == 4
        reasons = {
            entry["check"]: entry["reason"] for entry in result["skipped_checks"] if not entry["check"].startswith("files")
        }
        assert set(reasons) == {"shortcuts", "label_conflicts", "suspected_label_errors"}
        assert all("have the label 'Healthy'" in reason for reason in reasons.values())

    def test_few_groups_skip_the_probes(self, tmp_path: Path) -> None:
        result = audited(cohort(tmp_path, patients=6, slices=1))
        assert result["shortcuts"] == []
        assert len(result["skipped_checks"]) == 9
        few = "6 images look like heads, and a comparison needs at least 20"
        assert {"check": "files: wrong_orientation", "reason": few} in result["skipped_checks"]
        reason = "there are 6 independent groups of images, and an interval needs at least 10"
        assert {"check": "shortcuts: outside_head", "reason": reason} in result["skipped_checks"]
        assert result["verdict"] == "incomplete"

    def test_a_broken_file_is_named_and_the_others_are_audited(self, tmp_path: Path) -> None:
        cohort(tmp_path, patients=6, slices=1)
        broken = tmp_path / "images" / "P0001_00.png"
        broken.write_bytes(broken.read_bytes()[:300])
        result = audited(tmp_path)
        assert [item["path"] for item in result["files"]["corrupt"]] == ["images/P0001_00.png"]
        assert str(tmp_path) not in json.dumps(result)
        assert sum(result["classes"].values()) == 5

    def test_no_readable_image_is_an_error(self, tmp_path: Path) -> None:
        for label in "AB":
            (tmp_path / label).mkdir()
            for i in range(2):
                (tmp_path / label / f"{i}.png").write_bytes(b"no picture")
        with pytest.raises(UsageError, match="None of the 4 images can be read"):
            audit(Manifest.open(tmp_path), workers=0)


def test_the_result_is_written(tmp_path: Path) -> None:
    cohort(tmp_path / "data", patients=4, slices=1)
    result = audit(Manifest.open(tmp_path / "data"), tmp_path / "out", workers=0)
    assert json.loads((tmp_path / "out" / "audit.json").read_text()) == result
    assert "Research use only" in result["notice"]


@pytest.mark.data
class TestRealData:
    def subset(self, folder: Path, seed: int, groups: int) -> Manifest:
        """Up to 160 images of some patients, or some images where no patient is known, drawn at random."""
        manifest = Manifest.open(folder)
        keys = np.array([case.patient_id or case.name for case in manifest.cases])
        chosen = np.random.default_rng(seed).choice(np.unique(keys), groups, replace=False)
        result = np.flatnonzero(np.isin(keys, chosen))
        return manifest.subset(result[:: max(1, len(result) // 80)].tolist())

    def test_the_outside_of_ct_predicts_the_class(self, shared_data: Path) -> None:
        result = audit(self.subset(shared_data / "ct", 0, 60), workers=0)
        assert checks(result)["outside_head"]
        assert result["verdict"] == "fail"

    def test_the_outside_of_lgg_does_not(self, shared_data: Path) -> None:
        result = audit(self.subset(shared_data / "lgg", 0, 20), workers=0)
        assert not checks(result)["outside_head"]
        assert result["label_conflicts"] == []


def test_no_reason_ends_with_a_full_stop(result: dict[str, Any]) -> None:
    reasons = [check["reason"] for check in result["checks"]]
    assert all(not reason.endswith(".") for reason in reasons)


class TestPatientsOfDicomHeaders:
    @staticmethod
    def split_by_slice(folder: Path) -> Path:
        """12 patients of two slices, in class folders, one slice in Training and one in Testing."""
        cohort(folder / "all", patients=12, slices=2, format="dicom", seed=2)
        for case in Manifest.open(folder / "all").cases:
            split = "Training" if case.path.stem.endswith("_00") else "Testing"
            copy = folder / "data" / split / case.label / case.path.name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(case.path.read_bytes())
        return folder / "data"

    def test_patients_in_two_splits_are_leakage(self, tmp_path: Path) -> None:
        result = audited(self.split_by_slice(tmp_path))
        assert (result["patients"], result["patients_from_headers"]) == (12, 12)
        assert checks(result)["group_leakage"]
        assert sum(leak["kind"] == "patient" for leak in result["group_leakage"]) == 12
        assert "P0001" not in json.dumps([leak | {"paths": []} for leak in result["group_leakage"]])
        assert result["groups"] <= 12

    def test_an_id_that_all_files_share_is_not_used_and_reported(self, tmp_path: Path) -> None:
        data = self.split_by_slice(tmp_path)
        for case in Manifest.open(data).cases:
            item = pydicom.dcmread(case.path)
            item.PatientID = "SITE-7"
            item.save_as(case.path)
        result = audited(data)
        assert (result["patients"], result["patients_from_headers"]) == (12, 12)  # the studies tell them apart
        [reason] = [entry["reason"] for entry in result["skipped_checks"] if entry["check"] == "patients from DICOM headers"]
        assert "all 24 files with a Patient ID have the same one" in reason


def test_one_huge_number_in_one_header_does_not_end_the_audit(tmp_path: Path) -> None:
    cohort(tmp_path, patients=12, format="dicom")
    path = sorted((tmp_path / "images").iterdir())[0]
    item = pydicom.dcmread(path)
    item.RepetitionTime = "1e60"
    item.save_as(path)
    assert "file_metadata" in checks(audited(tmp_path))


def test_a_shortcut_of_one_of_three_classes_is_found(tmp_path: Path) -> None:
    """One of three classes has its own width; all bootstrap draws are equal."""
    rng = np.random.default_rng(1)
    for label, count, width in (("A", 12, 96), ("B", 15, 128), ("C", 10, 128)):
        (tmp_path / label).mkdir()
        for i in range(count):
            y, x = np.mgrid[-1:1:128j, -1 : 1 : complex(width)]
            noise = np.asarray(Picture.fromarray(rng.integers(40, 220, (12, 12), np.uint8)).resize((width, 128)), np.float32)
            Picture.fromarray((noise * (np.hypot(y / 0.8, x / 0.7) < 1)).astype(np.uint8)).save(tmp_path / label / f"{i}.png")
    result = audited(tmp_path)
    [probe] = [probe for probe in result["shortcuts"] if probe["probe"] == "file_metadata"]
    assert probe["balanced_accuracy"]["estimate"] == pytest.approx(2 / 3)
    assert probe["failed"]


def test_a_name_that_is_not_utf8_is_audited_like_any_other(tmp_path: Path) -> None:
    cohort(tmp_path / "all", patients=6)
    for case in Manifest.open(tmp_path / "all").cases:
        copy = tmp_path / "data" / case.label / case.path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(case.path.read_bytes())
    odd = os.fsencode(copy.parent) + b"/\xff\xfe.png"
    Path(os.fsdecode(odd)).write_bytes(copy.read_bytes())
    result = audit(Manifest.open(tmp_path / "data"), tmp_path / "out", workers=0)
    assert result["files"]["corrupt"] == []
    assert result["images"] == 7
    assert any(name.endswith(r"/\xff\xfe.png") for group in result["near_duplicates"] for name in group)
    assert json.loads((tmp_path / "out" / "audit.json").read_text(encoding="utf-8")) == result
    audit_report(result, Manifest.open(tmp_path / "data"), tmp_path / "out")


class TestWords:
    def lettered(self, folder: Path) -> Path:
        return cohort(folder, patients=4, faults={"text": 1.0})

    def test_words_are_counted_if_tesseract_is_installed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("reslink.audit.extract.count_words", lambda _image, boxes: 3 * len(boxes))
        result = audited(self.lettered(tmp_path))
        assert result["burned_in_text"]
        assert result["text_words"] == {name: 3 * len(result["text_boxes"][name]) for name in result["burned_in_text"]}
        assert "text_words" not in {entry["check"] for entry in result["skipped_checks"]}

    def test_missing_tesseract_is_reported(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("reslink.audit.burned_in_text.shutil.which", lambda _: None)
        result = audited(self.lettered(tmp_path))
        assert result["text_words"] == {}
        [reason] = [entry["reason"] for entry in result["skipped_checks"] if entry["check"] == "text_words"]
        assert "needs the package pytesseract and the program tesseract" in reason
