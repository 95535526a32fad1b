"""Every bad input of the issue's list: a message with a next step, the right exit code, and never a traceback."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from typer.testing import Result

from reslink.bundles.record import SCHEMA_VERSION

Invoke = Callable[..., Result]


def refused(result: Result, code: int, *words: str) -> None:
    """The exit code and the words are there; it was understood, and not met as a bug."""
    assert result.exit_code == code, result.stderr
    assert [word for word in words if word not in result.stderr] == [], result.stderr
    assert "Traceback" not in result.stderr
    assert "bug in reslink" not in result.stderr


def one_error(result: Result, path: Path, *words: str) -> None:
    """Prediction gave one line for the file, with an error that has the words."""
    assert result.exit_code == 1, result.stderr
    [row] = [json.loads(line) for line in result.stdout.splitlines()]
    assert row["path"] == str(path)
    assert row["label"] is row["probability"] is row["probabilities"] is None
    assert [word for word in words if word.lower() not in row["error"].lower()] == [], row["error"]


# Files


def test_predict_a_missing_file(bundle: Path, tmp_path: Path, invoke: Invoke) -> None:
    one_error(invoke("predict", bundle, tmp_path / "no.png", "--json"), tmp_path / "no.png", "does not exist")


def test_train_on_a_missing_folder(tmp_path: Path, train: Invoke) -> None:
    refused(train(tmp_path / "no", "--out", tmp_path / "run"), 2, "does not exist", "Check the path")


def test_a_missing_file_in_the_manifest_is_named_by_its_row(tmp_path: Path, train: Invoke) -> None:
    (tmp_path / "manifest.csv").write_text("path,label\nno.png,A\n")
    refused(train(tmp_path, "--out", tmp_path / "run"), 2, "ow 2", "no.png")


def test_train_on_an_empty_folder(tmp_path: Path, train: Invoke) -> None:
    (tmp_path / "empty").mkdir()
    refused(train(tmp_path / "empty", "--out", tmp_path / "run"), 2, "is empty")


def test_predict_an_empty_folder(bundle: Path, tmp_path: Path, invoke: Invoke) -> None:
    (tmp_path / "empty").mkdir()
    one_error(invoke("predict", bundle, tmp_path / "empty", "--json"), tmp_path / "empty")


def test_one_class_only(classes: Path, tmp_path: Path, train: Invoke) -> None:
    shutil.rmtree(classes / "Tumor")
    refused(train(classes, "--out", tmp_path / "run"), 2, "only the class 'Healthy'", "at least two classes")


def test_a_class_with_one_case(classes: Path, tmp_path: Path, train: Invoke) -> None:
    for extra in sorted((classes / "Tumor").iterdir())[1:]:
        extra.unlink()
    refused(train(classes, "--out", tmp_path / "run"), 2, "The class 'Tumor' has only one case", "Add images of 'Tumor'")


def test_two_classes_equal_but_for_case(cohort: Path, tmp_path: Path, train: Invoke) -> None:
    names = sorted(path.name for path in (cohort / "images").iterdir())[:4]
    for name in names:
        shutil.copy(cohort / "images" / name, tmp_path)
    labels = ("Tumor", "tumor", "Tumor", "tumor")
    rows = [f"{name},{label}" for name, label in zip(names, labels, strict=True)]
    (tmp_path / "manifest.csv").write_text("\n".join(["path,label", *rows]))
    refused(train(tmp_path, "--out", tmp_path / "run"), 2, "'Tumor'", "'tumor'", "case", "rename one of them")


def test_an_unreadable_image_among_good_ones(bundle: Path, images: list[Path], tmp_path: Path, invoke: Invoke) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n but no more")
    result = invoke("predict", bundle, images[0], bad, images[1], "--json")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 1
    assert [row["path"] for row in rows] == [str(images[0]), str(bad), str(images[1])]
    assert [row["error"] is None for row in rows] == [True, False, True]


@pytest.mark.usefixtures("without_onnx_model")
def test_training_skips_an_unreadable_image_and_reports_it(classes: Path, tmp_path: Path, train: Invoke) -> None:
    (classes / "Healthy" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n but no more")
    result = train(classes, "--out", tmp_path / "run", "--epochs", "1", "--set", "data.group_by=none", "--allow-leakage")
    assert result.exit_code == 1, result.stderr
    assert "Healthy/bad.png is left out" in result.stderr
    assert "Warning: Healthy/bad.png is skipped: " in result.stderr
    page = (tmp_path / "run" / "report.html").read_text()
    assert re.search(r"1 of \d+ files could not be read and were left out: Healthy/bad.png", page)
    assert "bad.png" not in (tmp_path / "run" / "splits.csv").read_text()


def test_a_bad_row_of_a_table_is_wrong_usage(cohort: Path, tmp_path: Path, train: Invoke) -> None:
    table = tmp_path / "bad.csv"
    table.write_text("path,label\nmissing.png,A\n")
    refused(train(table, "--out", tmp_path / "run"), 2, "Row 2 of bad.csv", "'missing.png'", "does not exist")


def test_a_truncated_jpeg(bundle: Path, tmp_path: Path, invoke: Invoke) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (128, 128), dtype=np.uint8)
    path = tmp_path / "cut.jpg"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:3000])
    one_error(invoke("predict", bundle, path, "--json"), path, "cut.jpg")


def test_a_dicom_without_pixels(bundle: Path, tmp_path: Path, invoke: Invoke) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path = tmp_path / "report.dcm"
    data = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.Modality = "CT"
    data.save_as(path, enforce_file_format=True)
    one_error(invoke("predict", bundle, path, "--json"), path, "pixel")


def test_a_png_bomb(bundle: Path, tmp_path: Path, invoke: Invoke) -> None:
    path = tmp_path / "bomb.png"
    Image.new("L", (10_000, 10_000)).save(path, compress_level=1)
    one_error(invoke("predict", bundle, path, "--json"), path, "10000")


# Bundles


def test_a_folder_that_is_no_bundle(cohort: Path, images: list[Path], invoke: Invoke) -> None:
    refused(invoke("predict", cohort, images[0]), 2, "bundle.json")


def test_a_bundle_with_other_weights(bundle: Path, images: list[Path], tmp_path: Path, invoke: Invoke) -> None:
    shutil.copytree(bundle, tmp_path / "changed")
    weights = bytearray((tmp_path / "changed" / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "changed" / "model.safetensors").write_bytes(weights)
    refused(invoke("predict", tmp_path / "changed", images[0]), 2, "model.safetensors")


def test_a_bundle_of_a_newer_version(bundle: Path, images: list[Path], tmp_path: Path, invoke: Invoke) -> None:
    shutil.copytree(bundle, tmp_path / "newer")
    record = json.loads((bundle / "bundle.json").read_text()) | {"schema_version": 99}
    (tmp_path / "newer" / "bundle.json").write_text(json.dumps(record))
    refused(
        invoke("predict", tmp_path / "newer", images[0]),
        2,
        "schema version 99",
        f"schema version {SCHEMA_VERSION}",
        "Update reslink",
    )


def test_a_label_that_the_bundle_does_not_know(bundle: Path, classes: Path, tmp_path: Path, invoke: Invoke) -> None:
    (classes / "Tumor").rename(classes / "Tumour")
    refused(invoke("evaluate", bundle, classes, "--out", tmp_path / "out"), 2, "'Tumour'", "'Tumor'")


# Settings


def test_a_recipe_with_an_unknown_key(cohort: Path, tmp_path: Path, train: Invoke) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("trainer:\n  epoch: 3\n")
    refused(train(cohort, "--out", tmp_path / "run", "--recipe", recipe), 2, "trainer.epoch", "trainer.epochs")
    assert not (tmp_path / "run").exists()


def test_set_with_an_unknown_key(cohort: Path, tmp_path: Path, train: Invoke) -> None:
    result = train(cohort, "--out", tmp_path / "run", "--set", "model.variantt=reslink_paper")
    refused(result, 2, "model.variantt", "model.variant")


def test_no_epochs(cohort: Path, tmp_path: Path, train: Invoke) -> None:
    refused(train(cohort, "--out", tmp_path / "run", "--epochs", "0"), 2, "--epochs", "greater than or equal to 1")
    assert not (tmp_path / "run").exists()


def test_an_unknown_variant(cohort: Path, tmp_path: Path, invoke: Invoke) -> None:
    result = invoke("train", cohort, "--out", tmp_path / "run", "--set", "model.variant=reslink_papr")
    refused(result, 2, "Did you mean 'reslink_paper'")


def test_an_unknown_device(bundle: Path, images: list[Path], invoke: Invoke) -> None:
    refused(invoke("predict", bundle, images[0], "--device", "gpu"), 2, "'gpu'", "auto")


@pytest.mark.parametrize(
    ("words", "wanted"), [(("trian",), "train"), (("train", "x", "--out", "y", "--epoch", "1"), "--epochs")]
)
def test_a_misspelt_word_names_the_right_one(words: tuple[str, ...], wanted: str, invoke: Invoke) -> None:
    result = invoke(*words)
    assert result.exit_code == 2
    assert wanted in result.stderr


def test_a_file_where_the_folder_should_be(cohort: Path, tmp_path: Path, train: Invoke) -> None:
    (tmp_path / "run").write_text("")
    refused(train(cohort, "--out", tmp_path / "run", "--epochs", "1"), 2, "run is a file", "--out must name a folder")
