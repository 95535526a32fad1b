"""Cases that are series, from a table of volumes to answers: training, evaluation, prediction, explanation, the DICOM node."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import reslink
from reslink.bundles.bundle import Bundle
from reslink.cli.main import app
from reslink.datasets.cache.pixel_cache import PixelCache
from reslink.datasets.manifest import Manifest
from reslink.datasets.near_duplicates.groups import leakage_groups
from reslink.datasets.phantom.cohort import PhantomSettings, make_cohort
from reslink.errors import ReslinkError, UsageError
from reslink.imaging.limits import ImagingWarning
from reslink.imaging.preprocess import Preprocess
from reslink.inference.classifier import Classifier
from reslink.inference.series_answers import SeriesAnswer, predict_series
from reslink.labels import Labels
from reslink.networks.build import build_network
from reslink.networks.reslink import ResLinkConfig
from reslink.training.batch_loader import BatchLoader
from reslink.training.data import open_training_data
from reslink.training.losses import Criterion
from reslink.training.monitoring.progress import SilentProgress
from reslink.training.recipe.recipe import load_recipe
from reslink.training.sampling import Shard, draw_slices

SLICES = 5
SETTINGS = [
    *("preprocess.size=64", "preprocess.channels=1", "model.stem_dim=8", "model.dims=[8, 16]", "model.depths=[1, 1]"),
    *("model.context_dim=0", "trainer.batch_size=4", "trainer.slices=3", "trainer.epochs=1", "trainer.workers=0"),
    *("trainer.device=cpu", "data.fractions=[0.5, 0.25, 0.25]"),
]


@pytest.fixture(scope="module")
def cohort(make_once) -> Path:
    settings = PhantomSettings(patients=12, case="series", slices=SLICES, size=128, format="nifti", seed=4)
    return make_once("series_cohort", lambda folder: make_cohort(folder / "heads", settings)) / "heads"


@pytest.fixture(scope="module")
def run(cohort, make_once) -> Path:
    def fill(folder: Path) -> None:
        (folder / "summary.json").write_text(
            json.dumps(reslink.train(cohort, folder / "run", case="series", settings=SETTINGS), default=str)
        )

    return make_once("series_run", fill)


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_bundle_of_series_is_trained_and_evaluated_by_case(run):
    summary = json.loads((run / "summary.json").read_text())
    bundle = Bundle.load(run / "run")
    assert (bundle.case, bundle.architecture["case"]) == ("series", "series")
    assert bundle.onnx_model is not None
    assert summary["n_test"] == len(rows_of(run / "run" / "predictions.csv")) > 1
    assert [len({row["split"] for row in rows_of(run / "run" / "splits.csv")}), summary["left_out"]] == [3, {}]
    gallery = json.loads((run / "run" / "figures" / "gallery.json").read_text())
    assert {(run / "run" / "figures" / case["file"]).is_file() for case in gallery} == {True}


def test_prediction_gives_the_probabilities_of_the_evaluation_with_every_backend(run, cohort):
    for backend in ("torch", "onnxruntime"):
        for row in rows_of(run / "run" / "predictions.csv"):
            [answer] = reslink.predict(run / "run", cohort / row["path"], backend=backend)
            assert isinstance(answer, SeriesAnswer)
            assert answer.probabilities["Tumor"] == pytest.approx(float(row["p_Tumor"]), abs=1e-5)
            assert sum(answer.result.attention.values()) == pytest.approx(1)
            assert answer.result.used[0] == max(answer.result.attention, key=answer.result.attention.get)


def test_the_validation_of_a_training_is_that_of_its_bundle(run, cohort, tmp_path):
    """The loop pools in torch, prediction in NumPy."""
    recipe = load_recipe(None, [*SETTINGS, "trainer.case=series"])
    data = open_training_data(Manifest.open(cohort, case="series"), recipe, run / "run" / "cache", SilentProgress())
    loader = BatchLoader(recipe, data, Criterion(recipe.loss, data.targets, 2), torch.device("cpu"), 0)
    bundle = Bundle.load(run / "run")
    with torch.no_grad():
        logits = loader.eval_logits(bundle.network(), data.indices("validation"))
    probabilities = bundle.decision.probabilities(logits.numpy())
    for case, probability in zip(data.indices("validation"), probabilities, strict=True):
        [answer] = reslink.predict(run / "run", data.manifest.cases[case].path)
        assert answer.probabilities["Tumor"] == pytest.approx(probability[1], abs=1e-5)


def test_a_step_sees_few_slices_and_prediction_all(run, cohort):
    recipe = load_recipe(None, [*SETTINGS, "trainer.case=series"])
    data = open_training_data(Manifest.open(cohort, case="series"), recipe, run / "run" / "cache", SilentProgress())
    loader = BatchLoader(recipe, data, Criterion(recipe.loss, data.targets, 2), torch.device("cpu"), 0)
    batch = loader.training_batch(Shard(data.indices("train")[:4], 1.0), 1, 0)
    assert (batch.sizes, len(batch.x), len(batch.targets)) == ((3, 3, 3, 3), 12, 4)
    [answer] = reslink.predict(run / "run", data.manifest.cases[0].path)
    assert answer.result.slices == SLICES


def test_drawn_slices_are_evenly_spaced_and_change():
    draws = {tuple(draw_slices(30, 6, np.random.default_rng(seed)).tolist()) for seed in range(20)}
    assert len(draws) > 3
    assert all(np.ptp(np.diff(draw)) <= 1 and draw[0] < 5 and draw[-1] < 30 for draw in draws)
    assert draw_slices(4, 6, np.random.default_rng(0)).tolist() == [0, 1, 2, 3]


def test_equal_runs_of_series_have_equal_weights(cohort, run, tmp_path, without_onnx_model):
    reslink.train(cohort, tmp_path / "again", case="series", settings=SETTINGS)
    assert Bundle.load(tmp_path / "again").weights_sha256 == Bundle.load(run / "run").weights_sha256


def test_a_folder_of_dicom_files_gets_the_answer_of_its_volume_and_an_unreadable_slice_is_named(run, tmp_path):
    settings = PhantomSettings(patients=1, case="series", slices=4, size=128, format="dicom", seed=9)
    folder = make_cohort(tmp_path / "dicom", settings) / "images" / "P0001"
    [answer] = reslink.predict(run / "run", folder)
    assert (Path(answer.path), answer.result.slices) == (folder, 4)
    content = (folder / "001.dcm").read_bytes()
    (folder / "001.dcm").write_bytes(content[: len(content) // 2])
    with pytest.warns(ImagingWarning, match="uneven gaps"):
        error, answer = reslink.predict(run / "run", folder)
    assert (Path(error.path).name, error.label) == ("001.dcm", None)
    assert answer.result.slices == 3


def test_one_slice_is_a_series(run, tmp_path):
    settings = PhantomSettings(patients=1, case="series", slices=4, size=128, format="dicom", seed=9)
    folder = make_cohort(tmp_path / "dicom", settings) / "images" / "P0001"
    [answer] = reslink.predict(run / "run", folder / "002.dcm")
    assert answer.result.attention == {0: 1.0}


def test_the_dicom_node_gives_the_answer_of_predict(run, tmp_path):
    pytest.importorskip("highdicom")
    from reslink.serving.dicom.classify import classify_series, load_model
    from reslink.serving.dicom.results import create_results
    from reslink.serving.dicom.series import read_head_series

    settings = PhantomSettings(patients=1, case="series", slices=12, size=128, format="dicom", seed=9)
    folder = make_cohort(tmp_path / "dicom", settings) / "images" / "P0001"
    result = classify_series(load_model(str(run / "run")), read_head_series(folder))
    [answer] = reslink.predict(run / "run", folder)
    assert result.prediction.probabilities == pytest.approx(answer.probabilities)
    assert list(result.prediction.attention.values()) == pytest.approx(list(answer.result.attention.values()))
    assert {one.kind for one in create_results(result)} == {"report", "picture", "map"}


def test_explain_draws_the_slices_with_the_largest_weights(run, cohort, tmp_path):
    path = cohort / "images" / "P0001.nii.gz"
    [answer] = reslink.predict(run / "run", path)
    shown = reslink.explain(run / "run", path, tmp_path / "out", methods=["grad_cam"])
    index = json.loads((tmp_path / "out" / "explain.json").read_text())
    assert [one["slice"] for one in index["images"]] == list(answer.result.used)
    assert [one["weight"] for one in index["images"]] == pytest.approx([answer.result.attention[i] for i in answer.result.used])
    assert [one["probability"] for one in index["images"]] == [pytest.approx(answer.probability)] * 3
    assert all((tmp_path / "out" / one["panel"]).is_file() for one in index["images"])
    assert len(shown) == 3


def test_what_cannot_answer_for_series_says_so(run, cohort, tmp_path):
    from reslink.inference.monai_transforms import load_network

    bundle, path = Bundle.load(run / "run"), cohort / "images" / "P0001.nii.gz"
    classifier, pixels = Classifier.load(bundle), np.zeros((1, 1, 64, 64), np.uint8)
    for call in (
        lambda: classifier.predict(path),
        lambda: classifier.predict_pixels(pixels),
        lambda: classifier.classify(pixels),
        lambda: load_network(run / "run"),
        lambda: reslink.predict(run / "run", path, pictures=tmp_path / "pictures"),
    ):
        with pytest.raises(UsageError, match=r"does not support .*: its cases are series.*needs a bundle whose cases are"):
            call()
    with pytest.raises(UsageError, match=r"One answer per slice was requested.*series='only'"):
        list(predict_series(classifier, [path], mode="each"))


def test_a_series_without_an_answer_is_a_failure(run, tmp_path):
    np.save(tmp_path / "empty.npy", np.zeros((3, 64, 64), np.uint8))
    done = CliRunner().invoke(app, ["predict", str(run / "run"), str(tmp_path / "empty.npy")])
    assert "no slice shows a head" in done.output
    assert done.exit_code == 1
    assert "1 line, 1 failed" in done.output


def test_a_table_for_series_is_checked(cohort, tmp_path):
    (tmp_path / "mask.png").write_bytes(b"")
    shutil.copy(cohort / "images" / "P0001.nii.gz", tmp_path / "a.nii.gz")
    (tmp_path / "t.csv").write_text("path,label,patient_id,mask\na.nii.gz,x,1,mask.png\n")
    with pytest.raises(UsageError, match=r"Row 2 .*has a lesion mask.*a case that is a series has none.*--columns mask="):
        Manifest.open(tmp_path / "t.csv", case="series")
    with pytest.raises(UsageError, match=r"folder of class folders, and a case is a series.*listed in a table"):
        Manifest.open(cohort / "images", case="series")
    (tmp_path / "f.csv").write_text(f"path,label\n{cohort / 'images'},x\n")
    with pytest.raises(UsageError, match=r"names the folder.*unless each series has one label.*--case series"):
        Manifest.open(tmp_path / "f.csv")


@pytest.mark.parametrize(
    ("setting", "message"),
    [("loss.mixup=0.2", "loss.mixup mixes images"), ("attention_supervision.weight=1", "needs cases that are slices")],
)
def test_settings_that_need_slices_are_refused(setting, message):
    load_recipe(None, [setting])
    with pytest.raises(UsageError, match=message):
        load_recipe(None, [setting, "trainer.case=series"])
    assert "case" not in load_recipe(None, []).published()["trainer"]
    assert load_recipe(None, ["trainer.case=series"]).published()["trainer"]["slices"] == 16


def test_a_slice_in_two_series_joins_their_cases(cohort, tmp_path):
    import nibabel

    volumes = [nibabel.load(cohort / "images" / f"P000{i}.nii.gz") for i in (1, 2, 3)]
    shared = np.asarray(volumes[0].dataobj)
    mixed = np.asarray(volumes[1].dataobj).copy()
    mixed[:, :, 2] = shared[:, :, 3]
    for name, values in (("a", shared), ("b", mixed), ("c", np.asarray(volumes[2].dataobj))):
        nibabel.save(nibabel.Nifti1Image(values, volumes[0].affine), tmp_path / f"{name}.nii")
    (tmp_path / "t.csv").write_text("path,label,patient_id\na.nii,x,1\nb.nii,y,2\nc.nii,x,3\n")
    manifest = Manifest.open(tmp_path / "t.csv", case="series", for_training=False)
    cache = PixelCache.open(manifest, Preprocess(size=64, channels=1), tmp_path / "cache", workers=0, case="series")
    assert (len(cache), len(cache.pixels)) == (3, 3 * SLICES)
    first, second, third = cache.case_groups(leakage_groups(cache.row_manifest, cache.thumbnails, include_similar=False))
    assert first == second != third
    again = PixelCache.open(manifest, Preprocess(size=64, channels=1), tmp_path / "cache", workers=0, case="series")
    np.testing.assert_array_equal(again.starts, cache.starts)
    part = PixelCache.open(manifest.subset([2, 0]), cache_preprocess(), tmp_path / "cache", workers=0, case="series")
    np.testing.assert_array_equal(part.pixels[:SLICES], cache.pixels[2 * SLICES :])


def cache_preprocess() -> Preprocess:
    return Preprocess(size=64, channels=1)


def test_slices_that_are_left_out_are_counted(cohort, tmp_path):
    import nibabel

    volume = nibabel.load(cohort / "images" / "P0001.nii.gz")
    values = np.asarray(volume.dataobj).copy()
    values[:, :, 0] = -1000
    nibabel.save(nibabel.Nifti1Image(values, volume.affine), tmp_path / "a.nii")
    (tmp_path / "t.csv").write_text("path,label\na.nii,x\n")
    manifest = Manifest.open(tmp_path / "t.csv", case="series", for_training=False)
    cache = PixelCache.open(manifest, cache_preprocess(), tmp_path / "cache", workers=0, case="series")
    assert len(cache.pixels) == SLICES - 1
    assert any(note.startswith(f"Slices: 1 of {SLICES} slices of 1 series are left out") for note in cache.notes)


def test_a_network_of_slices_becomes_one_of_series(cohort, run, tmp_path):
    """Its weights are taken over; those of the pooling are new."""
    config = ResLinkConfig(stem_dim=8, dims=(8, 16), depths=(1, 1), in_channels=1)
    parent = Bundle(
        {"name": "reslink_small", **config.model_dump(mode="json")}, cache_preprocess(), Labels(("Healthy", "Tumor"))
    ).save(tmp_path / "parent", build_network(config, 5).state_dict())
    from reslink.training.initialization import Initialization

    settings = [*(text for text in SETTINGS if not text.startswith(("model.", "preprocess."))), "trainer.case=series"]
    recipe = load_recipe(None, [*settings, ("init.parent", str(parent.folder))])
    initialization = Initialization.from_recipe(recipe, Labels(("Healthy", "Tumor")))
    assert set(initialization.new) == {n for n in initialization.new if n.startswith("pooling.")} != set()
    assert "stem.conv.weight" in initialization.tensors


def test_a_broken_case_is_named_and_the_others_are_used(cohort, tmp_path):
    (tmp_path / "bad.nii.gz").write_bytes(b"\x1f\x8b broken")
    shutil.copy(cohort / "images" / "P0001.nii.gz", tmp_path / "a.nii.gz")
    (tmp_path / "t.csv").write_text("path,label\nbad.nii.gz,x\na.nii.gz,x\n")
    manifest = Manifest.open(tmp_path / "t.csv", case="series", for_training=False)
    cache = PixelCache.open(manifest, cache_preprocess(), tmp_path / "cache", workers=0, case="series")
    assert list(cache.failed) == ["bad.nii.gz"]
    with pytest.raises(ReslinkError):
        PixelCache.open(manifest.subset([0]), cache_preprocess(), tmp_path / "cache", workers=0, case="series")
